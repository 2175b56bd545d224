"""What docs/benchmark.md and clusters.md promise of stores, and the tests that hold it to that."""

from typing import NamedTuple

FAULTS, MANY = "tests/faults/test_store_faults.py::", "tests/faults/test_many_faults.py::"
RUNS, EXECUTE = "tests/benchmark/test_run.py::", "tests/runs/test_execute.py::"
VERIFY, LOCAL = "tests/runs/test_verify.py::", "tests/runs/test_local.py::"
PACK, PROGRAM = "tests/runs/test_pack.py::", "tests/cli/test_cli.py::"
COMMAND, REMOTE = "tests/cli/test_verify_command.py::", "tests/runs/test_remote.py::"
CACHE, CLAIM = "tests/data/test_data_cache.py::", "tests/runs/test_claim.py::"


class Promise(NamedTuple):
    """A sentence of the page, or a part of one, and the tests that fail where it is broken."""

    sentence: str
    tests: tuple[str, ...]


PROMISES = [
    Promise(
        "what differs is read anew, a damaged cache is set aside as `.corrupt`",
        (
            f"{CACHE}test_a_damaged_entry_is_set_aside_and_rebuilt",
            f"{CACHE}test_an_edited_hash_is_noticed",
        ),
    ),
    Promise(
        "the same command trains nothing twice",
        (
            f"{EXECUTE}test_a_run_that_is_done_is_not_done_again",
            f"{RUNS}test_a_run_that_was_trained_is_not_trained_again",
        ),
    ),
    Promise(
        "A further sampler (`--samplers`) is scored from the saved model.",
        (f"{RUNS}test_a_further_sampler_of_a_finished_run_trains_nothing",),
    ),
    Promise(
        "A run that failed is tried again by the same command",
        (f"{LOCAL}test_a_run_that_failed_is_done_by_the_next_start",),
    ),
    Promise(
        "one that was interrupted or killed goes on from its last checkpoint, to the same weights, "
        "bit for bit on a CPU",
        (
            f"{FAULTS}test_killed_at_random_moments",
            f"{FAULTS}test_killed_around_the_moment_that_the_model_takes_its_name",
            f"{MANY}test_many_kills",
        ),
    ),
    Promise(
        "`--max-failures N` starts no other run after N failures.",
        (f"{LOCAL}test_no_run_is_prepared_or_started_after_so_many_failures",),
    ),
    Promise(
        "`--run-timeout 2h` ends a run that has reported neither an epoch nor a stage for that "
        "long; its `output.log` ends with where it was.",
        (f"{LOCAL}test_a_run_that_hangs_is_ended_and_named",),
    ),
    Promise(
        "The exit code of `run` and `study` is 0 if all runs are done, 1 if some failed or are "
        "left, 2 for bad input, 130 after an interrupt. `run --no-wait` ends with 0; `study "
        "--no-wait` with 1, since its table is not drawn yet. `--dry-run` ends with 1 if a model "
        "fails in its first steps, which it does not try under a wall clock.",
        (
            "tests/studies/test_tabular.py::test_the_exit_code_counts_records",
            f"{PROGRAM}TestGrid::test_grid_then_the_same_again",
            f"{PROGRAM}TestGrid::test_failed_run_costs_itself_and_is_tried_again",
            f"{PROGRAM}TestBadInput::test_one_line_and_exit_code_2",
            f"{PROGRAM}TestProgram::test_interrupt_in_the_middle_of_a_grid_then_the_same_command",
            f"{PROGRAM}TestShowing::test_dry_run_shows_the_plan_and_leaves_nothing",
            f"{PROGRAM}TestShowing::test_dry_run_estimates_the_time",
            f"{LOCAL}test_finished_is_told_by_the_record_not_by_the_process",
        ),
    ),
    Promise(
        "each machine works in a folder of its own that mirrors it",
        (
            f"{REMOTE}test_what_one_machine_made_another_finds_whole",
            f"{REMOTE}test_record_that_could_not_be_sent_is_sent_by_the_next_start",
            f"{REMOTE}test_whoever_lost_the_run_at_the_url_sends_nothing_and_says_so",
        ),
    ),
    Promise(
        "each run belongs to one process at a time",
        (
            f"{CLAIM}test_one_owner_at_a_time_and_everyone_has_a_turn",
            f"{LOCAL}test_two_drivers_on_one_store",
            f"{FAULTS}test_a_process_that_lost_its_run_writes_nothing_more",
            f"{MANY}test_many_stops",
        ),
    ),
    Promise(
        "One whose process died is free again at once on the same machine, and after about a "
        "minute on another.",
        (
            f"{CLAIM}test_killed_owner_of_this_machine_is_found_out_at_once",
            f"{CLAIM}test_killed_owner_of_another_machine_is_waited_for_as_long_as_its_lease",
        ),
    ),
    Promise(
        "`python run_benchmark.py verify results` reads a whole store and changes nothing.",
        (
            f"{VERIFY}test_every_kind_in_a_run_that_is_sealed",
            f"{MANY}test_many_damages",
            f"{COMMAND}test_neither_store_is_written_to",
        ),
    ),
    Promise(
        "A record is sealed by a checksum, and with it the files that belong to it: log, pictures, "
        "trained model.",
        (f"{EXECUTE}test_leaves_a_whole_record_sealed_with_its_files", f"{MANY}test_many_damages"),
    ),
    Promise(
        "The exit code is 1 if a run is damaged, edited, missing, unreadable or in the wrong "
        "place.",
        (
            f"{COMMAND}test_what_is_wrong_is_named_and_makes_the_exit_code",
            f"{VERIFY}test_every_kind_in_a_run_that_is_sealed",
            f"{VERIFY}test_a_folder_that_may_not_be_read",
        ),
    ),
    Promise(
        "Unfinished runs, other versions and uncommitted code are reported, and are no failure.",
        (
            f"{COMMAND}test_what_is_wrong_is_named_and_makes_the_exit_code",
            f"{VERIFY}test_every_kind_in_a_run_that_is_sealed",
        ),
    ),
    Promise(
        "A damaged file is never deleted: the next run sets it aside as `<name>.corrupt`, and a "
        "model or checkpoint of another run is set aside too.",
        (
            f"{FAULTS}test_damaged_and_foreign_files_are_set_aside_and_made_again",
            f"{FAULTS}test_full_disk",
            f"{MANY}test_many_damages",
        ),
    ),
    Promise(
        "Earlier records seal no files (`unsealed`).",
        (f"{VERIFY}test_every_kind_in_a_run_that_is_sealed",),
    ),
    Promise(
        "In a packed store, such as `results/reference`, each run is one sealed line of text, "
        "without its model (`packed`).",
        (
            f"{PACK}test_a_packed_run_is_what_it_was",
            f"{PACK}test_what_was_changed_in_a_pack_is_found",
        ),
    ),
    Promise(
        "New runs there get folders.",
        (f"{PACK}test_a_run_that_goes_on_gets_a_folder_which_counts_first",),
    ),
    Promise(
        "Packed runs that failed, or lack one of the data set's samplers, are not tried again.",
        (f"{PROGRAM}test_a_packed_store_trains_nothing_and_tells_what_failed",),
    ),
]
