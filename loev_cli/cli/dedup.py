def dedup() -> None:
    pass
