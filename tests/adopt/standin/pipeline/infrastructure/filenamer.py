"""How products are called."""


class NamingTemplate:
    task = None

    @classmethod
    def product(cls, name):
        return f"{cls.task}.{name}"
