"""What a hub needs for this course: take these lines into your own /etc/jupyterhub/jupyterhub_config.py."""

c = get_config()  # noqa: F821  JupyterHub puts it here

# One copy of the model, the tokenizer and the sentences for everybody, which students only read (90 MB each otherwise)
c.Spawner.environment = {"LORA_CACHE": "/srv/lora/cache"}
# Formgrader and Validate are frames in JupyterLab; JupyterHub forbids frames unless it is told who may have them
c.Spawner.args = [
    "--ServerApp.tornado_settings={'headers': {'Content-Security-Policy': \"frame-ancestors 'self'\"}}",
]
