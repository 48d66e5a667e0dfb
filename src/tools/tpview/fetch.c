#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "client/partial.h"
#include "tools/common/progress.h"
#include "tools/tpview/command.h"

static const char help[] =
    "Usage: tpview fetch --artifact NAME[@VERSION] --tp-size N --tp-rank R\n"
    "                    (--out FILE.safetensors | --null | --shared) [OPTION...]\n"
    "\n"
    "Fetch rank R's view from a service through a net plugin. With --source given again, the next service that\n"
    "serves the same artifact gives the bytes that are missing when one is lost.\n"
    "\n"
    "  --out FILE          write a safetensors file, new or in place of a regular one; it appears only when it is "
    "whole\n"
    "                      and verified, and is on the disk when the command ends\n"
    "  --no-sync           leave it to the kernel when --out gets to the disk: faster, but a power failure may leave "
    "a\n"
    "                      file with wrong bytes\n"
    "  --null              fetch into memory and drop it\n"
    "  --shared            fetch into a file in shared memory, once for all ranks of this host that ask for the\n"
    "                      same view; the others wait and map it too. --out then writes a copy\n"
    "  --ttl SECONDS       how long a shared view stays after its last use (default: TPVIEW_SHARED_TTL)\n"
    "  --hold              keep the shared view in use until standard input ends or a signal comes\n"
    "  --plan FILE         TP rules or an explicit view spec as JSON (docs/views.md); hf:FILE: transformers' plan\n"
    "  --fuse              q, k, v into qkv_proj and gate, up into gate_up_proj\n"
    "  --ep-size N, --ep-rank R\n"
    "                      the rank has the experts of group R of N, each whole\n"
    "  --expert-tp-size N, --expert-tp-rank R\n"
    "                      cut each expert for rank R of N (default: as all else, with --ep-size not at all)\n"
    "  --deadline SECONDS  for the whole fetch (default: none)\n"
    "  --comms K           comms to deal the chunks over, 1 to 64 (default: TPVIEW_COMMS)\n"
    "  --chunk BYTES       take no longer chunks, 4K to 64M (default: TPVIEW_CHUNK_BYTES)\n"
    "  --workers N         threads that compare digests and write; 0: the one that receives (default: by cores)\n"
    "  --net PLUGIN        net plugin, a name or a path (default: NCCL_NET_PLUGIN, else tpview)\n"
    "  --no-digests        do not compare chunk digests\n"
    "  --no-fallback       fail when the source cannot cut the view, instead of fetching whole "
    "tensors\n" TPV_HELP_CONNECTION
    "  --json              print the result as JSON; a failure as {\"error\":{\"status\",\"message\"}}\n"
    "\n"
    "Example:\n"
    "  tpview fetch --artifact qwen3-14b --tp-size 4 --tp-rank 0 \\\n"
    "               --out rank0.safetensors --deadline 120\n"
    "  tpview fetch --artifact qwen3-14b --tp-size 4 --tp-rank 0 --shared --json\n";

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    (void)number;
    interrupted = 1;
}

static const int stop_signals[] = {SIGINT, SIGTERM, SIGHUP};
#define STOP_SIGNALS (sizeof stop_signals / sizeof *stop_signals)

/* From here there is something to tidy up. Before, a signal ends the process at once, also while a source is silent.
 * What was ignored when we were started stays so: nohup, and shells without job control. */
static void catch_signals(void) {
    for (size_t i = 0; i < STOP_SIGNALS; i++) {
        struct sigaction before, action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
        if (sigaction(stop_signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(stop_signals[i], &action, NULL);
    }
}

/* A signal ends the fetch in an orderly way: the partial file goes, the lease is given back. */
static bool progress(void *user, uint64_t done, uint64_t total) {
    return tpv_progress_draw(user, done, total) && !interrupted;
}

static tpv_status_t fetch_to_memory(tpv_source_t *source, const tpv_artifact_t *artifact, const tpv_view_t *view,
                                    const tpv_fetch_options_t *options, tpv_fetch_result_t *result) {
    size_t bytes = tpv_view_stats(view).bytes;
    size_t mapped = bytes ? bytes : 1;
    void *memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return tpv_error_set_errno(TPV_ERR_NO_MEMORY, errno, "no memory for %zu bytes", bytes);
    madvise(memory, mapped, MADV_HUGEPAGE); /* fewer page faults; plain pages do as well */
    tpv_status_t status = tpv_fetch(source, artifact, view, options, memory, result);
    munmap(memory, mapped);
    return status;
}

/* Until standard input ends or a signal comes. */
static void hold(void) {
    sigset_t signals, before;
    sigemptyset(&signals);
    for (size_t i = 0; i < STOP_SIGNALS; i++)
        sigaddset(&signals, stop_signals[i]);
    sigprocmask(SIG_BLOCK, &signals, &before);
    while (!interrupted) {
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
        char bytes[256];
        if (ppoll(&input, 1, NULL, &before) <= 0) continue;
        ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) break;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* Which service gave how much. */
static void add_shares(json_t *root, const tpv_arguments_t *arguments, const tpv_fetch_result_t *result) {
    json_t *sources = json_array();
    for (unsigned i = 0; i < result->source_count; i++) {
        const tpv_fetch_share_t *share = &result->sources[i];
        json_array_append_new(sources,
                              json_pack("{s:s?, s:I, s:I, s:i}", "address", tpv_cli_text(arguments->sources[i]),
                                        "bytes", (json_int_t)share->bytes, "wire_bytes", (json_int_t)share->wire_bytes,
                                        "attempts", (int)share->attempts));
    }
    json_object_set_new(root, "sources", sources);
}

static void print_shared(const tpv_arguments_t *arguments, const tpv_artifact_t *artifact, const tpv_view_t *view,
                         const tpv_shared_t *shared, const tpv_shared_result_t *result) {
    tpv_view_stats_t stats = tpv_view_stats(view);
    const tpv_fetch_result_t *fetch = &result->fetch;
    const char *kind = result->fetched ? "cold" : "warm";
    double rate = fetch->seconds > 0 ? (double)fetch->needed_bytes / 1e9 / fetch->seconds : 0;
    if (!arguments->json) {
        printf("rank %u of %u: %llu tensors, %llu bytes in %.3f s, shared view %s%s: %s\n", arguments->options.tp_rank,
               arguments->options.tp_size, (unsigned long long)stats.outputs, (unsigned long long)stats.bytes,
               result->seconds, kind, result->waited ? " (waited for another rank)" : "",
               tpv_cli_text(tpv_shared_path(shared)));
        return;
    }
    json_t *root = json_pack("{s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:s, s:s, s:b, s:s?}", "artifact",
                             result->artifact, "artifact_id", tpv_artifact_id(artifact), "view_id", tpv_view_id(view),
                             "tp_rank", (int)arguments->options.tp_rank, "tp_size", (int)arguments->options.tp_size,
                             "tensors", (json_int_t)stats.outputs, "needed_bytes", (json_int_t)stats.bytes,
                             "wire_bytes", (json_int_t)fetch->wire_bytes, "chunks", (json_int_t)fetch->chunks,
                             "seconds", result->seconds, "gb_per_s", rate, "export", kind, "lease_id", result->lease_id,
                             "digests_checked", 1, "out", tpv_cli_text(arguments->out));
    json_object_update_missing_new(root, json_pack("{s:b, s:s, s:b, s:b, s:s?}", "shared", 1, "path",
                                                   tpv_cli_text(tpv_shared_path(shared)), "fetched",
                                                   (int)result->fetched, "waited", (int)result->waited, "source_export",
                                                   result->fetched ? fetch->export_kind : NULL));
    add_shares(root, arguments, fetch);
    tpv_cli_print_json(root);
}

/* NAME@VERSION for the lease table, when NAME was asked for; `text` as it is when the service does not tell. */
static void find_version(const tpv_arguments_t *arguments, tpv_source_t *source, const tpv_artifact_t *artifact,
                         char *text, size_t bytes) {
    snprintf(text, bytes, "%s", arguments->artifact);
    char *json = NULL;
    if (strchr(text, '@') || tpv_source_get(source, "/v1/artifacts", tpv_arguments_left(arguments), &json) != TPV_OK)
        return;
    json_t *root = json_loads(json, 0, NULL), *entry;
    size_t index;
    json_array_foreach(json_object_get(root, "artifacts"), index, entry) {
        const char *name, *version, *id;
        if (json_unpack(entry, "{s:s, s:s, s:s}", "name", &name, "version", &version, "artifact_id", &id) == 0 &&
            strcmp(name, arguments->artifact) == 0 && strcmp(id, tpv_artifact_id(artifact)) == 0)
            snprintf(text, bytes, "%s@%s", name, version);
    }
    json_decref(root);
    free(json);
}

static tpv_status_t fetch_shared(const tpv_arguments_t *arguments, tpv_source_t *source, const tpv_artifact_t *artifact,
                                 const tpv_view_t *view, const tpv_fetch_options_t *fetch, tpv_progress_bar_t *bar) {
    char name[128];
    find_version(arguments, source, artifact, name, sizeof name);
    tpv_shared_options_t options = {.fetch = *fetch, .name = name, .ttl_s = arguments->ttl_s};
    options.fetch.deadline_s = tpv_arguments_left(arguments);
    tpv_shared_t *shared;
    tpv_shared_result_t result;
    tpv_status_t status = tpv_shared_open(source, artifact, view, &options, &shared, &result);
    tpv_progress_end(bar);
    if (status != TPV_OK) return status;
    if (arguments->out) status = tpv_shared_save(shared, arguments->out);
    if (status == TPV_OK) print_shared(arguments, artifact, view, shared, &result);
    fflush(stdout);
    if (status == TPV_OK && arguments->hold) hold();
    tpv_shared_close(shared);
    return status;
}

/* Lines only where there is something to tell. */
static void print_shares(const tpv_arguments_t *arguments, const tpv_fetch_result_t *result) {
    for (unsigned i = 0; i < result->source_count && result->source_count > 1; i++)
        if (result->sources[i].attempts > 0)
            printf("  %llu bytes from %s, asked %u times\n", (unsigned long long)result->sources[i].bytes,
                   tpv_cli_text(arguments->sources[i]), (unsigned)result->sources[i].attempts);
}

static void print_result(const tpv_arguments_t *arguments, const tpv_artifact_t *artifact, const tpv_view_t *view,
                         const tpv_fetch_result_t *result) {
    double rate = result->seconds > 0 ? (double)result->needed_bytes / 1e9 / result->seconds : 0;
    tpv_view_stats_t stats = tpv_view_stats(view);
    if (!arguments->json) {
        printf("rank %u of %u: %llu tensors, %llu bytes in %.3f s, %.2f GB/s, %s export, digests %s%s%s\n",
               arguments->options.tp_rank, arguments->options.tp_size, (unsigned long long)stats.outputs,
               (unsigned long long)result->needed_bytes, result->seconds, rate, result->export_kind,
               result->digests_checked ? "ok" : "not checked", arguments->out ? " -> " : "",
               arguments->out ? tpv_cli_text(arguments->out) : "");
        print_shares(arguments, result);
        return;
    }
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:s, s:s, s:b, s:s?}", "artifact",
                  result->artifact, "artifact_id", tpv_artifact_id(artifact), "view_id", tpv_view_id(view), "tp_rank",
                  (int)arguments->options.tp_rank, "tp_size", (int)arguments->options.tp_size, "tensors",
                  (json_int_t)stats.outputs, "needed_bytes", (json_int_t)result->needed_bytes, "wire_bytes",
                  (json_int_t)result->wire_bytes, "chunks", (json_int_t)result->chunks, "seconds", result->seconds,
                  "gb_per_s", rate, "export", result->export_kind, "lease_id", result->fetch_id, "digests_checked",
                  result->digests_checked, "out", tpv_cli_text(arguments->out));
    json_object_set_new(root, "canonical", json_boolean(result->canonical));
    json_object_set_new(root, "first_seconds", json_real(result->first_seconds));
    add_shares(root, arguments, result);
    tpv_cli_print_json(root);
}

static tpv_status_t fetch(tpv_arguments_t *arguments) {
    tpv_source_t *source = NULL;
    tpv_artifact_t *artifact = NULL;
    tpv_view_t *view = NULL;
    tpv_fetch_result_t result = {0};
    if ((arguments->out && arguments->null) || (!arguments->out && !arguments->null && !arguments->shared))
        return tpv_error_set(TPV_ERR_ARGUMENT, "give --out FILE, --null or --shared");
    if (arguments->out && strcmp(arguments->out, "-") == 0)
        return tpv_error_set(TPV_ERR_ARGUMENT,
                             "--out -: a view goes into a file, not to standard output (write ./- for a file "
                             "of that name)");
    if (!arguments->shared && (arguments->hold || arguments->ttl_s > 0))
        return tpv_error_set(TPV_ERR_ARGUMENT, "--ttl and --hold are for --shared");
    if (arguments->shared && arguments->no_digests)
        return tpv_error_set(TPV_ERR_ARGUMENT, "digests of a shared view are always compared: others rely on it");
    if (arguments->ttl_s > 0 && (arguments->ttl_s < 1 || arguments->ttl_s > TPV_MAX_SHARED_TTL_S))
        return tpv_error_set(TPV_ERR_ARGUMENT, "--ttl %g: expected 1 to %d seconds", arguments->ttl_s,
                             TPV_MAX_SHARED_TTL_S);
    if (arguments->out) TPV_TRY(tpv_partial_check(arguments->out));
    TPV_TRY(tpv_arguments_plan(arguments));
    TPV_TRY(tpv_arguments_open(arguments, &source, &artifact));
    tpv_progress_bar_t bar = tpv_progress_bar("fetch");
    tpv_fetch_options_t options = {.net = arguments->net,
                                   .comms = arguments->comms,
                                   .chunk_bytes = arguments->chunk_bytes,
                                   .workers = arguments->workers,
                                   .no_digests = arguments->no_digests,
                                   .no_sync = arguments->no_sync,
                                   .no_fallback = arguments->no_fallback,
                                   .tp_rank = arguments->options.tp_rank,
                                   .tp_size = arguments->options.tp_size,
                                   .progress = progress,
                                   .progress_user = &bar};
    tpv_status_t status = tpv_arguments_view(arguments, artifact, &view);
    options.deadline_s = tpv_arguments_left(arguments);
    catch_signals();
    if (status == TPV_OK && arguments->shared)
        status = fetch_shared(arguments, source, artifact, view, &options, &bar);
    else if (status == TPV_OK && arguments->out)
        status = tpv_fetch_file(source, artifact, view, &options, arguments->out, &result);
    else if (status == TPV_OK)
        status = fetch_to_memory(source, artifact, view, &options, &result);
    tpv_progress_end(&bar);
    if (status == TPV_OK && !arguments->shared) print_result(arguments, artifact, view, &result);
    tpv_view_free(view);
    tpv_artifact_close(artifact);
    tpv_source_close(source);
    return status;
}

int tpv_command_fetch(int argc, char **argv) {
    tpv_arguments_t arguments;
    int code = tpv_arguments_parse(&arguments, argc, argv,
                                   TPV_OPTIONS_CONNECTION " artifact tp-size tp-rank ep-size ep-rank expert-tp-size "
                                                          "expert-tp-rank plan fuse out null net deadline comms chunk "
                                                          "no-digests no-fallback no-sync workers shared ttl hold json",
                                   NULL, help);
    if (code < 0) {
        tpv_status_t status = fetch(&arguments);
        code = status == TPV_OK ? TPV_EXIT_OK : tpv_cli_fail(status);
    }
    tpv_arguments_clear(&arguments);
    return code;
}
