"""For authors of plugins: conformance suites, fakes, and fixtures for pytest (docs/plugins.md).

- `arf.testing.suites`: a suite for each interface; a plugin's whole test is a subclass.
- `arf.testing.fakes`: a small, deterministic stand-in for each interface.
- `arf.testing.studies`: a whole study in the test's own process.
- `arf.testing.pytest_plugin`: the fixtures `arf_workspace`, `arf_plugins` and `arf_study`.
"""
