def playlist() -> None:
    pass
