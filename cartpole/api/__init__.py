"""What can be asked, and how it is answered: the ASGI application's parts."""
