"""Which tests `make test` leaves to `make test-long`: whole runs, and most of the cases of wide sweeps.

What is left out is a further instance of something of which `make test` keeps one.
"""

import pytest

# Functions that are long: of the cases in brackets, or whole.
LONG = {
    "cli/test_data_buckets.py": ("test_a_run_on_buckets_that_was_stopped_ends_as_one_that_was_not",),
    "cli/test_changed_config.py": ("test_a_branch_may_change_draws_and_data_but_no_net",),
    "cli/test_constraints.py": ("test_most_messages_give_advice",),
    "cli/test_ema.py": (
        "test_a_stopped_run_keeps_the_same_snapshots_bit_for_bit",
        "test_other_widths_are_those_tracked_by_another_run",
    ),
    "cli/test_fine_tuning.py": (
        "test_a_run_of_adapters_goes_on_bit_for_bit",
        "test_the_first_loss_is_that_of_diffusers_and_the_end_a_folder_for_it",
    ),
    "cli/test_own_loss_term.py": ("test_terms_of_a_folder_are_added_to_the_loss",),
    "cli/test_own_solver.py": ("test_training_draws_its_grids_with_it_and_the_model_names_it",),
    "cli/test_plan.py": (
        "test_precomputed_latents_spare_the_frozen_nets",
        "test_the_plan_has_the_nets_and_a_column_for_each_way",
    ),
    "cli/test_precompute.py": (
        "test_a_run_on_latents_that_was_stopped_ends_as_one_that_was_not",
        "test_training_on_latents_logs_the_losses_of_training_on_images[captions]",
    ),
    "cli/test_stable_diffusion.py": ("test_what_is_trained_here_is_a_folder_for_diffusers",),
    "cli/test_train.py": (
        "test_a_damaged_checkpoint_is_passed_over",
        "test_going_back_in_a_run_that_went_further_is_refused",
        "test_sample_grids_take_rules_and_weaker_nets",
        "test_two_processes_train_as_one_and_wandb_has_a_run_for_each_stage",
    ),
    "cli/test_train_shards.py": ("test_a_run_that_was_stopped_ends_as_one_that_was_not",),
    "planning/test_dry_run.py": (
        "test_recomputed_blocks_keep_fewer_activations",
        "test_the_step_to_resume_at_is_found_and_the_run_stays_as_it_is",
    ),
    "planning/test_simulate.py": (
        "test_a_gpu_keeps_no_scores_of_attention",
        "test_checkpointing_trades_memory_for_a_forward_pass",
        "test_memory_at_any_batch_is_that_of_a_step_simulated_at_it",
        "test_flops_are_those_that_torch_counts_in_a_real_step[True]",
        "test_planned_memory_is_what_the_allocator_gives_to_real_steps[diffusion-32-true-False]",
        "test_planned_memory_is_what_the_allocator_gives_to_real_steps[diffusion-bf16-mixed-True]",
        "test_the_flops_of_mfu_are_those_that_a_run_logs",
    ),
    "schedulers/test_ddim.py": (
        "test_inversion_and_sampling_return_the_data_the_better_the_more_steps[16-1e-12]",
    ),
    "test_notebooks.py": ("test_",),
    "test_runbook.py": ("test_every_command_runs_in_order",),
    "training/distributed/test_sharded_runs.py": ("test_",),
    "training/test_kills.py": ("test_",),
    "training/test_run.py": ("test_a_run_needs_no_hydra_and_stays_in_its_directory",),
}
# Sweeps of which one case in so many stays.
ONE_IN = {
    "checkpoints/test_assemble.py::test_names_lead_there_and_back_for_every_tensor": 3,
    "checkpoints/test_autoencoder_file.py::test_every_form_of_an_autoencoder_takes_the_place": 3,
    "checkpoints/test_converter.py::test_files_lead_there_and_back": 3,
    "cli/test_constraints.py::test_a_broken_constraint_names_its_key": 2,
    "cli/test_constraints.py::test_advice_can_be_typed_as_it_stands_and_mends_the_config": 3,
    "cli/test_experiment_deltas.py::test_one_retry_with_the_advice_suffices": 3,
    "cli/test_plan.py::test_a_mistake_is_one_line_and_status_2": 2,
    "cli/test_stray_keys.py::test_a_key_that_others_refer_to_is_the_users_own": 2,
    "cli/test_train.py::test_a_mistake_is_one_line_and_status_2": 2,
    "conf/test_groups.py::test_every_experiment_builds_and_denoises_on_the_meta_device": 3,
    "conf/test_groups.py::test_every_option_composes_and_passes_the_checks": 4,
    "conf/test_groups.py::test_the_decay_of_the_learning_rate_ends_with_the_training": 3,
    "diffusion/test_brownian.py::test_step_counts_share_the_path": 3,
    "diffusion/test_level_grids.py::test_every_number_of_steps_is_run_from_the_top_to_the_end": 3,
    "docs/test_pages.py::test_the_blocks_of_a_page_run_in_order": 7,
    "evaluation/test_oracle.py::test_the_flow_is_that_of_a_fine_solver": 2,
    "parity/test_adapters.py::test_the_backbone_with_adapters_of_peft_has_pefts_weights": 2,
    "parity/test_families.py::test_tiny_nets_equal_the_reference": 3,
    "parity/test_pipelines.py::test_": 3,
    "parity/test_single_file.py::test_an_original_file_gives_our_image_in_diffusers": 2,
    "pipelines/test_guidance.py::test_every_rule_guides_and_its_evaluations_are_counted": 2,
    "planning/test_dry_run.py::test_what_would_stop_the_run_is_one_line_and_status_2": 2,
    "schedulers/test_convergence.py::test_the_error_falls_with_the_order_of_the_solver": 2,
    "schedulers/test_ddpm.py::test_trajectories_equal_those_of_diffusers": 3,
    "schedulers/test_oracle.py::test_data_at_a_point_stays_on_the_noise_level_of_the_list": 4,
    "schedulers/test_oracle.py::test_every_step_is_finite": 2,
    "schedulers/test_oracle.py::test_no_step_depends_on_the_noise_when_it_ends_in_clean_data": 4,
    "schedulers/test_oracle.py::test_solvers_that_are_the_same": 2,
    "schedulers/test_peers.py::test_": 2,
    "schedulers/test_restart.py::test_restart_goes_its_interval_again_on_every_grid": 2,
    "schedulers/test_stochastic.py::test_samples_of_a_mixture_have_its_quantiles_and_weights": 3,
    "schedulers/test_stochastic.py::test_the_moments_are_those_of_the_data": 2,
    "training/test_run.py::test_data_without_a_caption_are_refused_before_the_first_stage_is_trained": 2,
}


def mark_long(items: list[pytest.Item], folder: str) -> None:
    """Marks tests as long.

    Args:
        items: the tests, in the order of their files.
        folder: of the tests, as their ids begin.
    """
    seen = dict.fromkeys(ONE_IN, 0)
    for item in items:
        if item.get_closest_marker("slow") or item.get_closest_marker("slurm"):
            continue
        name = item.nodeid.removeprefix(f"{folder}/")
        file, _, function = name.partition("::")
        if any(function.startswith(start) for start in LONG.get(file, ())):
            item.add_marker("long")
        for start in (start for start in ONE_IN if name.startswith(start)):
            if seen[start] % ONE_IN[start]:
                item.add_marker("long")
            seen[start] += 1
