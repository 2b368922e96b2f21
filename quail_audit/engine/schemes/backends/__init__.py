"""Run the libraries that quantize whole checkpoints, each in a process of its own.

process.py starts and watches it, worker.py is what runs there, guard.py cleans up however it all ends. The other
modules each drive one library.
"""
