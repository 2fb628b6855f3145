"""The paper, sentence by sentence: where each is in the code, and which test holds it there.

    gato doctor --paper          # this table; --json for programs
    python -m gato.paper         # docs/paper_map.md

A fact names code (`model/embed.py:PatchEmbedder`, below src/gato) and tests (`model/test_model.py:test_published_sizes`,
below tests), and, where we differ, had to choose or are not there yet, the row of docs/deviations.md that says why.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Deviation:
    """A row of docs/deviations.md: the title of its section, and its first cell."""

    section: str
    row: str


@dataclass(frozen=True)
class Fact:
    says: str
    code: tuple[str, ...]
    tests: tuple[str, ...]
    deviation: Deviation | None = None


@dataclass(frozen=True)
class Section:
    title: str
    facts: tuple[Fact, ...]


def fact(says: str, code: str = "", tests: str = "", deviation: Deviation | None = None) -> Fact:
    """One row; names are separated by spaces."""
    return Fact(says, tuple(code.split()), tuple(tests.split()), deviation)


def silent(row: str) -> Deviation:
    return Deviation("Silent in the paper", row)


def world(row: str) -> Deviation:
    return Deviation("Worlds", row)


def later(row: str) -> Deviation:
    return Deviation("Evaluation, fine-tuning, and what is not there yet", row)


THEIRS = later("what the paper measured on its own machines and data")
FILTERED = Deviation("Different from the paper, in the demo", "experts recorded while they learn, filtered by return †")
PAGES = later("an episode of five image-text pairs is padded or cropped at random; layout of M3W: not told")
EVALUATION_PROMPT = later("evaluation prompt: the first 1,024 tokens of a successful demonstration")
RATES = later("learning rate of 364M: 2e-4")
SAMPLES = later("captions: temperature 0.9, the first three samples; chat: a prompt that was published elsewhere")
SPECIALISTS = later("specialists: one domain, 500 episodes per task")
ROBOT = later("the robot: RGB Stacking for real, its fine-tuning, asynchronous control")
LAB = later("DM Lab, Playroom")
NEGATIVE = later("return filter: 80 % of a negative return; at least one episode in a window")
ANALYSIS = later("attention maps and embedding plots (section 6 of the paper)")

PAPER = (
    Section(
        "Tokens (section 2.1, appendix B)",
        (
            fact(
                "text: SentencePiece, 32,000 sub-words, ids from 0 to 32,000",
                "tokens/text.py:TextTokenizer model/config.py:GatoConfig.vocabulary_size",
                "tokens/test_text.py:test_every_text_comes_back"
                " tokens/test_text.py:test_the_size_is_the_size_asked_for_and_text_gets_shorter",
            ),
            fact(
                "images: non-overlapping 16×16 patches in raster order",
                "tokens/patches.py:cut",
                "tokens/test_patches.py:test_raster_order_and_channels tokens/test_golden.py:test_pixels_by_hand",
                silent("images that are not multiples of 16"),
            ),
            fact(
                "pixels to [−1, 1], divided by √16 = 4",
                "model/embed.py:PatchEmbedder model/embed.py:LinearPatches",
                "tokens/test_golden.py:test_pixels_reach_the_network_as_quarters",
            ),
            fact(
                "images have no ids: patches go to the ResNet embedder",
                "tokens/timestep.py:Tokens.patches sequences/batch.py:Batch.image_rows",
                "test_peer_defects.py:test_no_id_marks_a_patch model/test_transformer.py:test_image_rows_have_no_id",
            ),
            fact(
                "discrete values: row-major integers in [0, 1024), not shifted: they share ids with text",
                "tokens/values.py:Vocabulary.encode_discrete model/config.py:GatoConfig.separate_discrete",
                "tokens/test_values.py:test_blocks_do_not_touch tokens/test_golden.py:test_tensors_are_row_major",
                silent("discrete ids share the first text ids: meant so?"),
            ),
            fact(
                "continuous values: row-major, companded, clipped, 1,024 uniform bins, ids in [32000, 33024)",
                "tokens/values.py:mu_law tokens/values.py:to_bins tokens/values.py:Vocabulary.encode_continuous",
                "tokens/test_golden.py:test_ids_of_numbers tokens/test_golden.py:test_a_million_floats_of_every_size",
            ),
            fact(
                "F(x) = sgn(x) log(|x| μ + 1) / log(M μ + 1), μ = 100, M = 256",
                "tokens/values.py:mu_law",
                "tokens/test_values.py:test_mu_law_golden tokens/test_golden.py:test_mu_law",
            ),
            fact(
                "its inverse: sgn(y) ((M μ + 1)^|y| − 1) / μ",
                "tokens/values.py:mu_law_inverse",
                "tokens/test_golden.py:test_inverse tokens/test_values.py:test_mu_law_inverse",
            ),
            fact(
                "|F| reaches 1 at |x| = 256; what is larger saturates",
                "tokens/values.py:mu_law tokens/values.py:to_bins",
                "tokens/test_golden.py:test_ids_of_numbers"
                " tokens/test_values.py:test_the_largest_floats_saturate_quietly",
            ),
            fact(
                "floats of observations are companded; actions, which lie in [−1, 1] already, are not",
                "tokens/values.py:scale_action tokens/timestep.py:TimestepCodec",
                "tokens/test_timestep.py:test_layout_by_hand"
                " tokens/test_golden.py:test_near_zero_observations_are_finer_than_actions",
                silent("actions outside [−1, 1]"),
            ),
            fact(
                "clipped to [−1, 1], binned uniformly; 0 falls into bin 512, id 32512",
                "tokens/values.py:to_bins",
                "tokens/test_values.py:test_bins_golden tokens/test_values.py:test_every_bin_is_its_own_centre",
                silent("bins: edges and decoding"),
            ),
            fact(
                "near zero a bin of an observation is about 0.0002 wide, of an action 0.002",
                "tokens/values.py:mu_law",
                "tokens/test_golden.py:test_near_zero_observations_are_finer_than_actions",
            ),
        ),
    ),
    Section(
        "Order (section 2.1, appendix B)",
        (
            fact(
                "text in its own order, patches in raster order, tensors row-major",
                "tokens/timestep.py:TimestepCodec tokens/patches.py:cut",
                "tokens/test_golden.py:test_tensors_are_row_major tokens/test_golden.py:test_pixels_by_hand",
            ),
            fact(
                "structures in lexicographic order of their keys; in the appendix's letters [y text, x patches, z tensors]",
                "episodes/spec.py:specs_from_space",
                "tokens/test_golden.py:test_nested_keys tokens/test_timestep.py:test_keys_are_in_lexicographic_order",
            ),
            fact(
                "a timestep is the observation, a separator '|', the action; an episode is its timesteps in order",
                "tokens/timestep.py:TimestepCodec.encode",
                "tokens/test_timestep.py:test_layout_by_hand tokens/test_timestep.py:test_the_counting_world_by_hand",
            ),
            fact(
                "the separator is a token of its own: at least 33,025 ids in all",
                "tokens/values.py:Vocabulary.separator tokens/values.py:Vocabulary.size",
                "tokens/test_golden.py:test_separators tokens/test_values.py:test_the_separator_is_no_value",
                silent("id and position of the separator"),
            ),
            fact(
                "actions, discrete or continuous, row-major",
                "tokens/timestep.py:TimestepCodec.decode_action",
                "tokens/test_timestep.py:test_actions_at_both_ends tokens/test_golden.py:test_tensors_are_row_major",
            ),
            fact(
                "L = T (k + m + n + 1 + A)",
                "tokens/timestep.py:TimestepCodec.fixed_tokens",
                "tokens/test_timestep.py:test_layout_by_hand tokens/test_timestep.py:test_the_counting_world_by_hand",
            ),
            fact(
                "rewards and returns are recorded and are no part of the sequence",
                "episodes/episode.py:Episode.rewards episodes/episode.py:Episode.total_return",
                "tokens/test_golden.py:test_rewards_are_no_tokens episodes/test_store.py:test_every_modality_round_trips",
            ),
            fact(
                "the robot's example (figure 2): images, then proprioception, then actions",
                "tokens/timestep.py:TimestepCodec",
                "tokens/test_timestep.py:test_layout_by_hand",
                silent("id and position of the separator"),
            ),
            fact(
                "training on random sub-sequences of 1,024 tokens of episodes and documents",
                "sequences/store.py:TokenStore.window training/recipe.py:Recipe.window_tokens",
                "sequences/test_token_store.py:test_windows"
                " sequences/test_token_store.py:test_documents_are_cut_where_they_must_be",
                silent("where a window starts"),
            ),
            fact(
                "observations of over 100 tokens: few timesteps fit a window, at least one must",
                "sequences/mixture.py:Mixture",
                "sequences/test_sequences.py:test_bad_weights"
                " sequences/test_mixture.py:test_a_timestep_longer_than_half_the_window_can_be_prompted",
            ),
        ),
    ),
    Section(
        "Embedding (section 2.2, appendices C.2 and C.3)",
        (
            fact(
                "one look-up table for text, discrete and continuous tokens, of observations and actions",
                "model/embed.py:Embedding",
                "model/test_transformer.py:test_the_whole_network_against_a_plain_one",
            ),
            fact(
                "the same table predicts (shared embedding)",
                "model/transformer.py:Gato.forward model/embed.py:Embedding.vocabulary",
                "model/test_model.py:test_tied_embeddings_and_patch_embedder"
                " model/test_transformer.py:test_the_whole_network_against_a_plain_one",
            ),
            fact(
                "a patch becomes one vector by a ResNet block",
                "model/embed.py:PatchEmbedder model/config.py:GatoConfig.num_residual_blocks",
                "model/test_transformer.py:test_residual_blocks",
            ),
            fact(
                "v2 (pre-activation), GroupNorm with 32 groups, GELU (figure 16)",
                "model/embed.py:ResidualBlock model/config.py:GatoConfig.num_group_norm_groups",
                "model/test_transformer.py:test_the_whole_network_against_a_plain_one",
            ),
            fact(
                "its inside: widths, kernels, strides, how 16×16 becomes one vector",
                "model/config.py:GatoConfig.patch_stem_width model/config.py:GatoConfig.patch_stem_stride",
                "model/test_transformer.py:test_residual_blocks",
                silent("inside of the patch block"),
            ),
            fact(
                "it works on each patch by itself",
                "tokens/patches.py:PatchTable model/embed.py:PatchEmbedder",
                "tokens/test_patches.py:test_table_holds_every_different_patch_once"
                " sequences/test_mixture.py:test_what_a_segment_holds_does_not_depend_on_its_company",
            ),
            fact(
                "it holds about a million parameters; some stem makes channels that 32 groups divide",
                "model/embed.py:PatchEmbedder model/config.py:GatoConfig.patch_stem_width",
                "model/test_model.py:test_tied_embeddings_and_patch_embedder"
                " test_paper_map.py:test_what_cannot_be_normalised_in_groups",
            ),
            fact(
                "patch positions: rows and columns over height and width, quantised to 128 (figure 17)",
                "tokens/patches.py:boxes model/config.py:GatoConfig.discretize_depth",
                "tokens/test_golden.py:test_the_twenty_patches_of_the_worked_example",
            ),
            fact(
                "in training an index drawn uniformly from the interval",
                "tokens/patches.py:sampled_index",
                "tokens/test_patches.py:test_sampling_is_half_open"
                " tokens/test_patches.py:test_every_drawn_position_is_inside_its_patch",
                silent("interval of patch positions: closed or half-open"),
            ),
            fact(
                "in evaluation the rounded mean",
                "tokens/patches.py:mean_index",
                "tokens/test_golden.py:test_the_twenty_patches_of_the_worked_example"
                " tokens/test_golden.py:test_halves_go_to_even",
            ),
            fact(
                "a row table and a column table, 128 each, added to the block's output",
                "model/embed.py:Embedding",
                "model/test_transformer.py:test_the_whole_network_against_a_plain_one",
            ),
            fact(
                "the worked example: 80 wide, 64 high, 20 patches; row 1, column 2 is (48, 64)",
                "tokens/patches.py:boxes tokens/patches.py:mean_index",
                "tokens/test_patches.py:test_worked_example"
                " tokens/test_golden.py:test_the_twenty_patches_of_the_worked_example",
            ),
            fact(
                "so one table serves every resolution",
                "tokens/patches.py:boxes",
                "tokens/test_patches.py:test_every_drawn_position_is_inside_its_patch",
            ),
            fact(
                "local positions 0, 1, … over all tokens of an observation, patches included (figure 18)",
                "tokens/timestep.py:Tokens.positions",
                "tokens/test_timestep.py:test_the_counting_world_by_hand",
            ),
            fact(
                "the separator takes the next one, or none",
                "tokens/timestep.py:TimestepCodec",
                "tokens/test_timestep.py:test_layout_by_hand",
                silent("id and position of the separator"),
            ),
            fact(
                "local and patch positions are learned",
                "model/embed.py:Embedding model/config.py:GatoConfig.encodings",
                "model/test_transformer.py:test_every_parameter_is_used",
            ),
            fact(
                "the table of local positions has a large size such as 512",
                "model/config.py:GatoConfig.local_position_encoding_size",
                "tokens/test_timestep.py:test_observations_longer_than_the_position_table"
                " tokens/test_timestep.py:test_a_text_that_does_not_fit_is_refused_when_it_comes",
            ),
            fact(
                "all action tokens share one vector",
                "tokens/timestep.py:TimestepCodec model/config.py:GatoConfig.action_position",
                "tokens/test_timestep.py:test_action_position_is_a_switch",
                silent("action positions: none (caption of figure 18), or one shared vector (text)"),
            ),
            fact(
                "local positions of text and captions outside a timestep",
                "tokens/timestep.py:TimestepCodec",
                "tokens/test_timestep.py:test_documents",
                silent("positions of text outside a timestep"),
            ),
            fact(
                "no absolute position of a token in the sequence",
                "model/config.py:GatoConfig.position",
                "test_peer_defects.py:test_order_is_more_than_the_mask"
                " model/test_cache.py:test_late_in_a_long_episode_it_is_as_exact",
                silent("position in the sequence"),
            ),
        ),
    ),
    Section(
        "Targets (section 2.3)",
        (
            fact(
                "the next token; text, and actions as they are, discrete or binned",
                "sequences/batch.py:collate tokens/timestep.py:Tokens.targets",
                "sequences/test_token_store.py:test_every_target_is_predicted_by_the_row_before_it"
                " sequences/test_sequences.py:test_targets_follow_their_separator",
            ),
            fact(
                "images and other observations are no targets, nor is the separator",
                "tokens/timestep.py:TimestepCodec",
                "tokens/test_timestep.py:test_the_counting_world_by_hand",
            ),
            fact(
                "textual observations are, by the letter",
                "training/recipe.py:Recipe.text_targets",
                "tokens/test_timestep.py:test_textual_observations_are_targets_by_a_switch",
            ),
            fact(
                "of a question about a picture only the answer (figure 2)",
                "corpora/__init__.py:question_spec tokens/timestep.py:TimestepCodec training/recipe.py:Recipe.question_targets",
                "tokens/test_timestep.py:test_only_the_answer_is_a_target",
            ),
            fact(
                "loss: −Σ m log p over the batch, m = 1 for text and actions",
                "training/loss.py:token_losses",
                "training/test_training.py:test_loss_by_hand training/test_loop.py:test_the_loss_against_a_plain_one"
                " training/test_loop.py:test_the_loop_divides_by_all_targets_of_the_step",
                silent("loss: sum, or mean of what"),
            ),
        ),
    ),
    Section(
        "Network (section 2.3, appendix C.1)",
        (
            fact(
                "a decoder-only transformer",
                "model/transformer.py:Gato",
                "model/test_transformer.py:test_nothing_later_and_no_neighbour_is_seen",
            ),
            fact(
                "24, 12 and 8 blocks; 16, 12 and 24 heads; width 2048, 1536 and 768 (1.18B, 364M, 79M)",
                "model/config.py:GatoConfig.large model/config.py:GatoConfig.baseline model/config.py:GatoConfig.small",
                "test_paper_map.py:test_the_three_sizes model/test_model.py:test_published_sizes",
            ),
            fact(
                "feed-forward hidden size 8192, 6144 and 3072",
                "model/config.py:GatoConfig.feedforward_hidden_size",
                "test_paper_map.py:test_the_three_sizes",
                silent("feed-forward size under GEGLU (8,192, in one place 8,196)"),
            ),
            fact(
                "keys and values of 128, 128 and 32; heads times these are the width",
                "model/config.py:GatoConfig.key_value_size",
                "test_paper_map.py:test_the_three_sizes model/test_model.py:test_configs_that_do_not_fit",
            ),
            fact("the largest is what still controls a robot in real time", deviation=ROBOT),
            fact(
                "pre-norm",
                "model/transformer.py:Block.forward",
                "model/test_transformer.py:test_the_whole_network_against_a_plain_one",
            ),
            fact(
                "GEGLU",
                "model/transformer.py:FeedForward",
                "model/test_transformer.py:test_the_whole_network_against_a_plain_one",
            ),
            fact(
                "1.18 billion, 364 million, 79 million parameters: with relative attention's fifth matrix, the listed"
                " hidden size before the gate, tied embeddings and no table of absolute positions",
                "model/transformer.py:Attention model/transformer.py:FeedForward doctor.py:sizes",
                "model/test_model.py:test_published_sizes model/test_model.py:test_attention_against_its_definition",
                silent("position in the sequence"),
            ),
            fact(
                "stochastic depth in pretraining: each attention and each feed-forward sub-layer with 0.1",
                "model/transformer.py:Block model/config.py:GatoConfig.stochastic_depth",
                "model/test_transformer.py:test_stochastic_depth_by_segment_and_not_in_evaluation"
                " model/test_model.py:test_stochastic_depth_drops_whole_segments test_paper_map.py:test_the_three_sizes",
            ),
            fact(
                "no dropout in pretraining",
                "model/config.py:GatoConfig.dropout_rate",
                "test_paper_map.py:test_the_three_sizes",
            ),
        ),
    ),
    Section(
        "Pretraining (sections 2.3 and 4, appendix D)",
        (
            fact(
                "a million steps of 512 sequences of 1,024 tokens, for all sizes",
                "recipes/paper.py:recipe training/recipe.py:Recipe.accumulate",
                "test_paper_map.py:test_pretraining training/test_loop.py:test_parts_are_one_batch",
            ),
            fact("a 16×16 slice of TPU v3, about four days, about 1.5 million tokens a second", deviation=THEIRS),
            fact(
                "AdamW, β 0.9 and 0.95, ε 1e-8",
                "training/optimizer.py:make_optimizers training/recipe.py:Recipe.betas training/recipe.py:Recipe.eps",
                "test_paper_map.py:test_pretraining",
            ),
            fact(
                "weight decay 0.1",
                "training/recipe.py:Recipe.weight_decay",
                "test_paper_map.py:test_pretraining training/test_loop.py:test_what_is_decayed",
                silent("what is decayed"),
            ),
            fact(
                "warm-up linear over 15,000 steps from 1e-7",
                "training/optimizer.py:learning_rate training/recipe.py:Recipe.warmup",
                "test_paper_map.py:test_pretraining training/test_loop.py:test_the_ends_of_the_schedule",
            ),
            fact(
                "a cosine by a factor of ten over a million steps",
                "training/optimizer.py:learning_rate training/recipe.py:Recipe.final_ratio",
                "test_paper_map.py:test_pretraining training/test_training.py:test_learning_rate_ends",
                silent("warm-up and decay: overlapping?"),
            ),
            fact(
                "learning rate 1e-4 to 1e-5 (1.18B and 79M)",
                "training/recipe.py:Recipe.learning_rate",
                "test_paper_map.py:test_pretraining",
            ),
            fact("learning rate 2e-4 to 2e-5 (364M)", "training/recipe.py:Recipe.learning_rate", deviation=RATES),
            fact(
                "gradient clipping is not mentioned",
                "training/recipe.py:Recipe.clip",
                "training/test_loop.py:test_a_real_divergence_is_stopped_before_the_update",
                silent("gradient clipping"),
            ),
            fact(
                "initialisation is not mentioned",
                "model/transformer.py:Gato.reset",
                "model/test_transformer.py:test_the_first_loss_is_that_of_knowing_nothing",
                silent("initialisation"),
            ),
            fact(
                "precision is not mentioned",
                "training/recipe.py:Recipe.precision",
                "training/test_loop.py:test_half_precision_logits_lose_nothing_in_the_loss",
                silent("bf16"),
            ),
            fact(
                "batches mix sub-sequences about uniformly over domains, good data sets weighted up: Table 1's weights",
                "sequences/mixture.py:Mixture recipes/paper.py:recipe",
                "test_paper_map.py:test_table_one sequences/test_mixture.py:test_token_shares_are_the_weights",
            ),
            fact(
                "the rule inside a domain",
                "sequences/mixture.py:Mixture",
                "sequences/test_mixture.py:test_token_shares_are_the_weights",
                silent("weights: of what"),
            ),
            fact(
                "tasks, episodes and tokens of each domain (table 1)",
                "recipes/paper.py:TABLE_1 training/start.py:absent_weights",
                "training/test_training.py:test_absent_domains_are_named",
            ),
            fact("how often each data set is passed over: 93 times to 0.02", deviation=THEIRS),
            fact(
                "prompts in place of task ids",
                "sequences/store.py:TokenStore.prompt",
                "test_peer_defects.py:test_a_prompt_tells_apart_what_looks_alike",
            ),
            fact(
                "a quarter of the sequences begin with a prompt of another episode, same task and source agent",
                "sequences/mixture.py:Mixture.prompt_share sequences/store.py:TokenStore.prompt",
                "sequences/test_sequences.py:test_prompts"
                " sequences/test_token_store.py:test_prompts_come_from_another_successful_episode",
                silent("prompt: length, room, episode, loss"),
            ),
            fact(
                "half of the prompts are the end of their episode, half are drawn uniformly from it",
                "sequences/store.py:TokenStore.prompt",
                "sequences/test_sequences.py:test_prompts",
            ),
            fact(
                "episodes with at least 80 % of the expert's return",
                "sequences/filter.py:good_episodes training/recipe.py:Recipe.return_filter",
                "sequences/test_filter.py:test_by_hand test_paper_map.py:test_pretraining",
                NEGATIVE,
            ),
            fact(
                "the expert's return is the largest mean over a window of episodes in the order of collection",
                "sequences/filter.py:expert_return",
                "sequences/test_filter.py:test_by_hand sequences/test_filter.py:test_the_order_of_collection_matters",
            ),
            fact(
                "the window: W = min(1000, N / 10)",
                "sequences/filter.py:expert_return",
                "sequences/test_filter.py:test_windows_are_a_tenth_and_at_most_a_thousand",
                NEGATIVE,
            ),
            fact("episodes are recorded while the expert learns", "rollouts/collect.py:collect", deviation=FILTERED),
            fact(
                "of the robot only trajectories that succeed",
                deviation=ROBOT,
            ),
        ),
    ),
    Section(
        "Fine-tuning (section 5.2, appendix E)",
        (
            fact(
                "held out: cartpole.swingup, assembly-v2, order_of_apples_forage_simple, boxing",
                "recipes/paper.py:recipe training/recipe.py:Recipe.hold_out training/data.py:load_stores",
                "training/test_loop.py:test_poor_episodes_and_held_out_tasks_are_not_read"
                " evaluation/test_few_shot.py:test_a_task_that_was_trained_on_is_refused",
            ),
            fact("order_of_apples_forage_simple: apples in the right order, at most 19", deviation=LAB),
            fact(
                "pretrained on all data, on the same domain, without control, or not at all (364M)",
                "evaluation/few_shot.py:few_shot training/recipe.py:Recipe.weights",
                "evaluation/test_few_shot.py:test_a_round_through_the_command_line",
            ),
            fact(
                "fine-tuning, since demonstrations are longer than the context",
                "training/start.py:finetune_run",
                "evaluation/test_few_shot.py:test_plain_fine_tuning_starts_from_the_bundle",
            ),
            fact(
                "Adam at a constant 1e-5, β 0.9 and 0.95, ε 1e-8",
                "recipes/finetune.py:recipe",
                "test_paper_map.py:test_fine_tuning",
            ),
            fact("64 sequences of 1,024 tokens", "recipes/finetune.py:recipe", "test_paper_map.py:test_fine_tuning"),
            fact("10,000 steps", "recipes/finetune.py:recipe", "test_paper_map.py:test_fine_tuning"),
            fact(
                "dropout 0.1",
                "recipes/finetune.py:recipe model/config.py:GatoConfig.dropout_rate",
                "test_paper_map.py:test_fine_tuning"
                " evaluation/test_few_shot.py:test_plain_fine_tuning_starts_from_the_bundle",
            ),
            fact(
                "evaluated every 100 steps over 10 episodes, smoothed over five, the largest counts",
                "evaluation/few_shot.py:smoothed_best evaluation/few_shot.py:few_shot",
                "evaluation/test_few_shot.py:test_smoothed_by_hand test_paper_map.py:test_fine_tuning",
            ),
            fact(
                "the best 2,000 episodes, 1,000 of them drawn, nested subsets of 100, 10, 5, 3 and 1, three series",
                "evaluation/few_shot.py:nested_subsets",
                "evaluation/test_few_shot.py:test_subsets_are_nested_and_drawn_from_the_best"
                " evaluation/test_few_shot.py:test_series_differ test_paper_map.py:test_fine_tuning",
            ),
            fact(
                "the tasks as they are, unaltered",
                "evaluation/few_shot.py:few_shot",
                "evaluation/test_few_shot.py:test_a_round_through_the_command_line",
            ),
            fact(
                "figure 9, one point per run",
                "evaluation/few_shot.py:draw",
                "evaluation/test_few_shot.py:test_a_round_through_the_command_line",
            ),
            fact("what pretraining helps: states yes, boxing no", deviation=THEIRS),
            fact("the robot: 1 to 5,000 episodes, simulated ones mixed in, blue on green", deviation=ROBOT),
        ),
    ),
    Section(
        "Acting (sections 2.5 and 4)",
        (
            fact(
                "begins with a prompt, a successful demonstration; its first 1,024 tokens",
                "policy/batch.py:AgentPolicy.reset sequences/store.py:TokenStore.example",
                "policy/test_policy.py:test_prompts_are_read_first",
                EVALUATION_PROMPT,
            ),
            fact(
                "the observation is tokenised and appended",
                "tokens/timestep.py:TimestepCodec.encode_observation",
                "tokens/test_timestep.py:test_the_counting_world_by_hand",
            ),
            fact(
                "action tokens are sampled one after another, as many and of the kind the action space says",
                "policy/batch.py:AgentPolicy.act tokens/timestep.py:TimestepCodec.legal",
                "policy/test_policy.py:test_decisions_equal_a_full_pass"
                " policy/test_policy.py:test_everything_chosen_is_legal",
            ),
            fact(
                "decoded, executed, appended, and again",
                "tokens/timestep.py:TimestepCodec.decode_action rollouts/loop.py:rollout",
                "policy/test_policy.py:test_decisions_equal_a_full_pass tokens/test_timestep.py:test_actions_come_back",
            ),
            fact(
                "it sees what is inside its 1,024 tokens",
                "model/cache.py:RingCache model/config.py:GatoConfig.token_sequence_length",
                "model/test_model.py:test_ring_cache_is_one_pass_with_a_band"
                " model/test_cache.py:test_pieces_of_any_length_are_one_pass",
            ),
            fact(
                "Transformer-XL memory helps when acting, unused in training",
                "policy/acting.py:DEFAULTS policy/batch.py:AgentPolicy",
                "policy/test_policy.py:test_xl_memory_reaches_one_context_further",
            ),
            fact(
                "greedy or sampled, temperature, tokens that are no action",
                "training/recipe.py:Recipe.discrete training/recipe.py:Recipe.temperature policy/batch.py:AgentPolicy",
                "test_peer_defects.py:test_choices_are_drawn_among_legal_ids_only"
                " policy/test_policy.py:test_everything_chosen_is_legal",
                silent("illegal tokens when acting"),
            ),
            fact(
                "captions and dialogue from the same weights",
                "policy/agent.py:Agent.captions policy/agent.py:Agent.chat",
                "test_cli.py:test_chat_and_captions",
                SAMPLES,
            ),
            fact("other prompts changed little; on new tasks a prompt alone did not help", deviation=THEIRS),
        ),
    ),
    Section(
        "Evaluation (sections 4 and 5)",
        (
            fact(
                "50 episodes of every simulated control task",
                "cli/playing.py:Evaluate.episodes evaluation/evaluate.py:evaluate",
                "test_peer_defects.py:test_fifty_episodes_unless_asked_otherwise",
            ),
            fact("specialists: 500 episodes per task", deviation=SPECIALISTS),
            fact("the robot: 200 episodes per test triplet", deviation=ROBOT),
            fact(
                "fine-tuned agents: 10 per checkpoint, 50 smoothed",
                "evaluation/few_shot.py:few_shot evaluation/few_shot.py:smoothed_best",
                "test_paper_map.py:test_fine_tuning",
            ),
            fact(
                "one training run, no seeds; an interval here covers episodes, not runs",
                "evaluation/scores.py:interval",
                "evaluation/test_scores.py:test_intervals_hold_what_they_promise",
            ),
            fact(
                "percent of expert: 100 (score − random) / (expert − random)",
                "evaluation/scores.py:expert_normalised",
                "evaluation/test_scores.py:test_golden_by_hand",
                silent("random and expert scores per task"),
            ),
            fact(
                "the scaling curve: averaged over a domain's tasks, then over domains",
                "evaluation/scores.py:aggregate",
                "evaluation/test_scores.py:test_golden_by_hand"
                " test_peer_defects.py:test_the_headline_does_not_hide_failed_tasks",
            ),
            fact(
                "figure 5: tasks above a percentage of their expert",
                "evaluation/scores.py:thresholds",
                "evaluation/test_scores.py:test_golden_by_hand",
            ),
            fact(
                "models are chosen by return, never by validation loss",
                "evaluation/few_shot.py:smoothed_best",
                "evaluation/test_few_shot.py:test_smoothed_by_hand",
            ),
            fact("the robot: 20 Hz, 400 steps, an RTX 3090 that over-ran by 0.01 s", deviation=ROBOT),
            fact(
                "for it all action tokens in one pass, action inputs zeroed, a context of one timestep",
                "model/config.py:GatoConfig.parallel_actions training/recipe.py:Recipe.window_timesteps",
                "sequences/test_mixture.py:test_parallel_actions_blank_the_action_inputs_and_nothing_else"
                " policy/test_policy.py:test_decisions_equal_a_full_pass",
                silent("one pass for all action tokens (the paper on robots)"),
            ),
            fact(
                "attention maps, embeddings of tasks",
                "policy/look.py:attention",
                "evaluation/test_inside.py:test_a_row_of_attention_is_that_of_the_separator_and_means_are_means",
                ANALYSIS,
            ),
        ),
    ),
    Section(
        "Data (section 3, appendix F)",
        (
            fact(
                "BabyAI, the built-in bot",
                "worlds/babyai.py:BabyAIExpert",
                "worlds/test_babyai.py:test_expert_solves",
                world("BabyAI: form of observation and choice of 46 levels not told"),
            ),
            fact(
                "Meta-World",
                "worlds/meta_world.py:MetaWorld",
                "worlds/test_meta_world.py:test_scripts_succeed",
                world("Meta-World: reinforcement-learning experts, 45 tasks, physics state in the data"),
            ),
            fact(
                "DM Control Suite from state",
                "worlds/dm_control.py:DMControl",
                "worlds/test_dm_control.py:test_feedback_experts",
                world("DM Control: D4PG"),
            ),
            fact(
                "Sokoban",
                "worlds/sokoban.py:Sokoban",
                "worlds/test_sokoban.py:test_the_expert_solves_levels_of_the_promised_length",
                world("Sokoban: Muesli"),
            ),
            fact(
                "ALE Atari",
                "worlds/atari.py:AtariEnv",
                "worlds/test_atari.py:test_the_planner_plays_well_and_repeats_itself",
                world("Atari: an 80×64 image is the worked example; frame skip, sticky actions, starts not told"),
            ),
            fact(
                "text, and images with captions",
                "corpora/text.py:text_files corpora/images.py:captioned_images",
                "corpora/test_documents.py:test_a_folder_is_read_in_name_order"
                " corpora/test_captioned_images.py:test_images_and_captions_stay_together_in_order",
                world("text, captions: private corpora"),
            ),
            fact(
                "pages that mix text and pictures; episodes of five image-text pairs",
                "corpora/pages.py:Pages corpora/pairs.py:in_fives",
                "corpora/test_readers.py:test_pages_are_in_their_order"
                " corpora/test_into_training.py:test_five_pairs_are_one_window_where_they_fit",
                PAGES,
            ),
            fact(
                "28 more Atari games, mode and difficulty drawn",
                "worlds/atari.py:tasks",
                "worlds/test_atari.py:test_the_seed_draws_mode_and_difficulty_and_decides_the_episode",
            ),
            fact(
                "DM Control Suite from pixels, 28 tasks",
                "worlds/dm_control_pixels.py:Pixels",
                "worlds/test_dm_control_variants.py:test_plain_pictures_show_the_same_scene",
            ),
            fact(
                "DM Control Suite, random small and large: 26 tasks each, factors from intervals",
                "worlds/dm_control_random.py:vary",
                "worlds/test_dm_control_variants.py:test_factors_lie_in_the_papers_intervals",
            ),
            fact(
                "Procgen: 16 games, hard but maze and heist",
                "worlds/procgen.py:ProcgenEnv",
                "worlds/test_procgen.py:test_sixteen_games_hard_but_two_and_the_other_difficulty_beside_them",
            ),
            fact(
                "Modular RL: 38 bodies",
                "worlds/modular_rl.py:ModularBody",
                "worlds/test_modular_rl.py:test_a_body_is_a_part_of_the_whole",
            ),
            fact(
                "DM Manipulation Playground: a Jaco arm",
                "worlds/dm_manipulation.py:Manipulation",
                "worlds/test_dm_manipulation.py:test_reach_and_lift",
                world("DM Manipulation Playground: four tasks that were never published"),
            ),
            fact(
                "RGB Stacking in simulation: five test triplets, skill mastery and generalisation",
                "worlds/rgb_stacking.py:RGBStacking",
                "worlds/test_rgb_stacking.py:test_triplets_and_splits_are_the_packages",
            ),
            fact(
                "DM Lab, Playroom",
                "worlds/dm_lab.py:DMLab worlds/miniworld.py:MiniWorldEnv worlds/dm_maze.py:MazeEnv",
                "worlds/test_first_person.py:test_mazes_of_two_seeds_differ_and_one_seed_is_one_maze",
                LAB,
            ),
        ),
    ),
)

INTRODUCTION = """# Paper map

From the sentences of [A Generalist Agent](https://arxiv.org/abs/2205.06175) (v3) to the code that follows them and the
tests that hold it there. Code is below `src/gato/`; tests are below `tests/`. Appendix letters are the paper's. Where we
differ, had to choose or are not there yet, the last column leads to the reason. `gato doctor --paper` prints the same.

This page is made by `python -m gato.paper > docs/paper_map.md`; the table is `gato/paper.py`.
"""


def resolve(reference: str) -> Any:
    """What `model/config.py:GatoConfig.layer_width` names: a function, class, constant, method or field.

    Raises LookupError naming what is gone.
    """
    file, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(
            "gato." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        )
    except ModuleNotFoundError as error:
        raise LookupError(f"{reference}: {error}") from None
    for name in path.split("."):
        declared = {f.name: f for f in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else {}
        if not hasattr(found, name) and name not in declared:
            raise LookupError(f"{reference}: nothing there is called {name}")
        found = getattr(found, name, declared.get(name))
    return found


def rows() -> Iterator[dict[str, Any]]:
    """The table for programs: {"section", "fact", "code", "tests", "deviation"}, the last null or {"section", "row"}."""
    for section in PAPER:
        for f in section.facts:
            deviation = dataclasses.asdict(f.deviation) if f.deviation else None
            yield {
                "section": section.title, "fact": f.says, "code": list(f.code), "tests": list(f.tests),
                "deviation": deviation,
            }  # fmt: skip


def as_json() -> str:
    return json.dumps(list(rows()), indent=1, ensure_ascii=False)


def as_text() -> str:
    """For a terminal: the fact, and below it where it is."""
    lines = []
    for section in PAPER:
        lines += ["", section.title, "=" * len(section.title)]
        for f in section.facts:
            lines.append(f"\n* {f.says}")
            lines += [f"    code       {name}" for name in f.code]
            lines += [f"    test       {name}" for name in f.tests]
            if f.deviation:
                lines.append(f"    deviation  {f.deviation.row}")
    return "\n".join(lines[1:])


def as_markdown() -> str:
    """docs/paper_map.md."""
    lines = [INTRODUCTION]
    for section in PAPER:
        lines += [f"## {section.title}", "", "| the paper | code | test | see |", "| --- | --- | --- | --- |"]
        for f in section.facts:
            code = ", ".join(f"`{name}`" for name in f.code) or "–"
            lines.append(
                f"| {f.says.replace('|', chr(92) + '|')} | {code} | {_tests(f.tests)} | {_link(f.deviation)} |"
            )
        lines.append("")
    return "\n".join(lines)


def _tests(names: tuple[str, ...]) -> str:
    """`file.py`: `test_a`, `test_b`; a file is named once."""
    by_file: dict[str, list[str]] = {}
    for name in names:
        file, _, test = name.partition(":")
        by_file.setdefault(file, []).append(f"`{test}`")
    return "; ".join(f"`{file}`: {', '.join(tests)}" for file, tests in by_file.items()) or "–"


def _link(deviation: Deviation | None) -> str:
    if deviation is None:
        return ""
    anchor = re.sub(r"[^a-z0-9 -]", "", deviation.section.lower()).replace(" ", "-")
    return f"[{deviation.row.removesuffix(' †')}](deviations.md#{anchor})"


if __name__ == "__main__":
    print(as_markdown(), end="")
