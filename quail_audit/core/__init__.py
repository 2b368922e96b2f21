"""Values and small tools that import nothing of Quail: errors, clocks, files, plug-ins."""
