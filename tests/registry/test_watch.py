"""How changes of the models folder change the desired state."""

from service.registry.models_folder import ModelFiles
from service.registry.watch import changes
from service.registry.workers import ModelSpec, Spec

ONE, TWO = ModelFiles({"1": "a"}), ModelFiles({"1": "a", "2": "b"})
LOADED = {("digits", "1")}


def spec(model: ModelSpec, *proven: str) -> Spec:
    return Spec(1, models={"digits": model}, proven=frozenset(proven))


def why_missing(name: str, number: str) -> str:
    return f"{name}/{number}: gone"


def test_a_new_model_is_needed_only_if_it_is_found_at_start() -> None:
    assert changes({"digits": ONE}, Spec(), set(), why_missing) == {"digits": ModelSpec(ONE, found_at_start=True)}
    later = changes({"digits": ONE, "letters": ONE}, spec(ModelSpec(ONE), "digits"), LOADED, why_missing)
    assert later == {"letters": ModelSpec(ONE, found_at_start=False)}


def test_files_that_are_the_same_change_nothing() -> None:
    assert changes({"digits": ONE}, spec(ModelSpec(ONE)), LOADED, why_missing) == {}


def test_new_versions_and_new_content_are_to_be_loaded() -> None:
    for files in (TWO, ModelFiles({"1": "another"})):
        assert changes({"digits": files}, spec(ModelSpec(ONE)), LOADED, why_missing) == {"digits": ModelSpec(files)}


def test_a_loaded_version_stays_without_its_files() -> None:
    missing = ModelSpec(ModelFiles({}, {"1": "digits/1: gone"}))
    for found in ({}, {"digits": ModelFiles()}):
        assert changes(found, spec(ModelSpec(ONE), "digits"), LOADED, why_missing) == {"digits": missing}
    assert changes({"digits": ONE}, spec(missing, "digits"), LOADED, why_missing) == {"digits": ModelSpec(ONE)}


def test_of_a_model_that_was_loaded_the_versions_stay_even_if_no_worker_has_them_now() -> None:
    missing = ModelFiles({}, {"1": "digits/1: gone", "2": "digits/2: gone"})
    assert changes({}, spec(ModelSpec(TWO), "digits"), set(), why_missing) == {"digits": ModelSpec(missing)}


def test_a_version_that_is_not_loaded_goes_with_its_folder() -> None:
    assert changes({"digits": ONE}, spec(ModelSpec(TWO), "digits"), LOADED, why_missing) == {"digits": ModelSpec(ONE)}
    assert changes({}, spec(ModelSpec(ONE)), set(), why_missing) == {"digits": None}


def test_an_unloaded_model_stays_unloaded() -> None:
    unloaded = ModelSpec(ONE, loaded=False)
    gone = changes({}, spec(unloaded, "digits"), set(), why_missing)
    assert gone == {"digits": ModelSpec(loaded=False)}
    back = changes({"digits": TWO}, spec(ModelSpec(loaded=False), "digits"), set(), why_missing)
    assert back == {"digits": ModelSpec(TWO, loaded=False)}
