"""The example's own tests need it installed; `test_third_party.py` runs them where it is."""

collect_ignore = ["arf-example-plugin"]
