"""What agents that talk to a language model share: turns, answers, tools, retries and prices.

Nothing here knows a provider. A provider is a `Model` (`arf_plugins.llm.turns`) that sends a request and
reads the reply; everything else is `ModelAgent` (`arf_plugins.llm.agent`).
"""
