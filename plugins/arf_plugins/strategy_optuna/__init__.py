"""The strategies `tpe` and `cmaes`: hyper-parameter search by Optuna's samplers, over the agent's ideas."""

from attrs import field, frozen, validators

from arf.hooks import Declaration, hookimpl


@frozen(kw_only=True)
class OptunaOptions:
    """What `tpe` and `cmaes` can be told."""

    ideas: int = field(
        default=64,
        validator=validators.ge(2),
        metadata={"help": "Ideas that the agent is asked for; together they are the space to search"},
    )
    startup: int = field(
        default=10,
        validator=validators.ge(1),
        metadata={"help": "Random runs before the sampler is asked"},
    )


@hookimpl
def arf_register_strategies() -> list[Declaration]:
    return [
        Declaration(
            name=name,
            summary=summary,
            implementation=f"arf_plugins.strategy_optuna.strategy:{cls}",
            options=OptunaOptions,
            extra="arf-research[optuna]",
        )
        for name, cls, summary in (
            ("tpe", "Tpe", "Optuna's tree-structured Parzen estimator over combinations of ideas"),
            ("cmaes", "CmaEs", "Optuna's CMA-ES over combinations of ideas that have an order"),
        )
    ]
