"""The command line: it reads the files itself, and sends commands to the host.

`app` has the commands and their help; everything heavier is loaded when a command needs it.
"""
