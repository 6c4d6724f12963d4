"""Every way in: HTTP, the web page, the command line. Never imports torch."""
