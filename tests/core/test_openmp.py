from core.openmp import brief_waiting


def test_a_process_that_computes_waits_briefly() -> None:
    assert brief_waiting({"PATH": "/bin"}) == {"PATH": "/bin", "GOMP_SPINCOUNT": "1000"}


def test_what_the_operator_has_set_stays() -> None:
    for chosen in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        assert brief_waiting(chosen) == chosen
