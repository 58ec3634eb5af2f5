"""The kubeconfig that tenants get: what it says, the host secret that holds it, who keeps that.

* :mod:`syncer.kubeconfig.document`: the text, made of what reaches the virtual cluster; pure.
* :mod:`syncer.kubeconfig.secret`: what a write to the host would be, if any; pure.
* :mod:`syncer.kubeconfig.writer`: keeps the secrets, for as long as the syncer runs.
"""
