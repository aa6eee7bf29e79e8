"""What authors of plugins import beside the interfaces. The built-ins use nothing else of arf.

Strategies use `strategies` and `statistics`; agents `scripts`; backends `jobs`, `polling` and `sandbox`;
commands `commands`, `studies` and `formats`. Programs that run scripts or whole studies themselves use
`configuration`, `workspaces`, `runs` and `engine`.
"""
