"""Match the categories of an annotation file with a model's classes, by name."""

from ..errors import UserError
from .validate import CheckedCoco

__all__ = ["match_classes"]


def match_classes(checked: CheckedCoco, classes: list[str]) -> CheckedCoco:
    """Return ``checked`` with the class indices of ``classes``.

    Classes that the file does not have are added without annotations. A detection of such a class is a false one.

    Raises:
        UserError: the file has a category that ``classes`` does not have, or a name stands for two classes.
    """
    if checked.classes == classes:
        return checked
    where = checked.report.subject
    twice = sorted({n for names in (checked.classes, classes) for n in names if names.count(n) > 1})
    if twice:
        raise UserError(
            f"{where}: two classes are called {twice[0]!r}, so classes cannot be matched by name; rename one"
        )
    unknown = [name for name in checked.classes if name not in classes]
    if unknown:
        raise UserError(
            f"{where}: its categories {', '.join(unknown)} are not among the model's classes {', '.join(classes)}; "
            "rename or remove them"
        )
    names = dict(enumerate(checked.classes))
    new_index = {old: classes.index(name) for old, name in names.items()}
    for record in checked.dataset_dicts:
        for annotation in record["annotations"]:
            annotation["category_id"] = new_index[annotation["category_id"]]
    content = checked.repaired or checked.source
    ids = {category: classes.index(names[index]) for category, index in checked.category_ids.items()}
    checked.repaired = {
        **content,
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(classes)],
        "annotations": [{**a, "category_id": ids[a["category_id"]] + 1} for a in content["annotations"]],
    }
    checked.classes = list(classes)
    checked.category_ids = {index + 1: index for index in range(len(classes))}
    return checked
