#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/params.h"
#include "tools/common/plan_option.h"
#include "tools/tpview/command.h"

#define WATCH_DEFAULT_S 1
#define SHORTEST_S 1e-9 /* 0 is no deadline at all */

enum {
    SOURCE,
    ARTIFACT,
    CHECKPOINT,
    TP_SIZE,
    TP_RANK,
    EP_SIZE,
    EP_RANK,
    EXPERT_TP_SIZE,
    EXPERT_TP_RANK,
    PLAN,
    FUSE,
    OUT,
    NUL,
    NET,
    DEADLINE,
    COMMS,
    CHUNK,
    NO_DIGESTS,
    NO_FALLBACK,
    NO_SYNC,
    WORKERS,
    SHARED,
    TTL,
    HOLD,
    TOKEN_FILE,
    TLS_CA,
    TLS_CERT,
    TLS_KEY,
    ANY_UID,
    JSON,
    REPAIR,
    WATCH,
    FAMILIES,
    EXPLAIN,
    HELP,
    OPTION_COUNT
};

static const struct option known[] = {
    [SOURCE] = {"source", required_argument, NULL, SOURCE},
    [ARTIFACT] = {"artifact", required_argument, NULL, ARTIFACT},
    [CHECKPOINT] = {"checkpoint", required_argument, NULL, CHECKPOINT},
    [TP_SIZE] = {"tp-size", required_argument, NULL, TP_SIZE},
    [TP_RANK] = {"tp-rank", required_argument, NULL, TP_RANK},
    [EP_SIZE] = {"ep-size", required_argument, NULL, EP_SIZE},
    [EP_RANK] = {"ep-rank", required_argument, NULL, EP_RANK},
    [EXPERT_TP_SIZE] = {"expert-tp-size", required_argument, NULL, EXPERT_TP_SIZE},
    [EXPERT_TP_RANK] = {"expert-tp-rank", required_argument, NULL, EXPERT_TP_RANK},
    [PLAN] = {"plan", required_argument, NULL, PLAN},
    [FUSE] = {"fuse", no_argument, NULL, FUSE},
    [OUT] = {"out", required_argument, NULL, OUT},
    [NUL] = {"null", no_argument, NULL, NUL},
    [NET] = {"net", required_argument, NULL, NET},
    [DEADLINE] = {"deadline", required_argument, NULL, DEADLINE},
    [COMMS] = {"comms", required_argument, NULL, COMMS},
    [CHUNK] = {"chunk", required_argument, NULL, CHUNK},
    [NO_DIGESTS] = {"no-digests", no_argument, NULL, NO_DIGESTS},
    [SHARED] = {"shared", no_argument, NULL, SHARED},
    [TTL] = {"ttl", required_argument, NULL, TTL},
    [HOLD] = {"hold", no_argument, NULL, HOLD},
    [NO_FALLBACK] = {"no-fallback", no_argument, NULL, NO_FALLBACK},
    [NO_SYNC] = {"no-sync", no_argument, NULL, NO_SYNC},
    [WORKERS] = {"workers", required_argument, NULL, WORKERS},
    [TOKEN_FILE] = {"token-file", required_argument, NULL, TOKEN_FILE},
    [TLS_CA] = {"tls-ca", required_argument, NULL, TLS_CA},
    [TLS_CERT] = {"tls-cert", required_argument, NULL, TLS_CERT},
    [TLS_KEY] = {"tls-key", required_argument, NULL, TLS_KEY},
    [ANY_UID] = {"any-uid", no_argument, NULL, ANY_UID},
    [JSON] = {"json", no_argument, NULL, JSON},
    [REPAIR] = {"repair", no_argument, NULL, REPAIR},
    [WATCH] = {"watch", optional_argument, NULL, WATCH},
    [FAMILIES] = {"families", no_argument, NULL, FAMILIES},
    [EXPLAIN] = {"explain", required_argument, NULL, EXPLAIN},
    [HELP] = {"help", no_argument, NULL, HELP},
};

static bool is_allowed(const char *name, const char *allowed) {
    size_t length = strlen(name);
    for (const char *at = allowed; (at = strstr(at, name)); at += length)
        if ((at == allowed || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) return true;
    return false;
}

static tpv_status_t take(tpv_arguments_t *a, int option) {
    int64_t number = 0;
    tpv_status_t status = TPV_OK;
    switch (option) {
    case SOURCE:
        if (a->source_count == TPV_MAX_SOURCES)
            return tpv_error_set(TPV_ERR_ARGUMENT, "--source %s is one too many: expected at most %d", optarg,
                                 TPV_MAX_SOURCES);
        a->sources[a->source_count++] = optarg;
        break;
    case ARTIFACT:
        a->artifact = optarg;
        break;
    case CHECKPOINT:
        a->checkpoint = optarg;
        break;
    case TP_SIZE:
        status = tpv_parse_int("--tp-size", optarg, 1, TPV_MAX_TP_SIZE, &number);
        a->options.tp_size = (uint32_t)number;
        a->have_size = true;
        break;
    case TP_RANK:
        status = tpv_parse_int("--tp-rank", optarg, 0, TPV_MAX_TP_SIZE - 1, &number);
        a->options.tp_rank = (uint32_t)number;
        a->have_rank = true;
        break;
    case EP_SIZE:
        status = tpv_parse_int("--ep-size", optarg, 1, TPV_MAX_TP_SIZE, &number);
        a->options.ep_size = (uint32_t)number;
        break;
    case EP_RANK:
        status = tpv_parse_int("--ep-rank", optarg, 0, TPV_MAX_TP_SIZE - 1, &number);
        a->options.ep_rank = (uint32_t)number;
        a->have_ep_rank = true;
        break;
    case EXPERT_TP_SIZE:
        status = tpv_parse_int("--expert-tp-size", optarg, 1, TPV_MAX_TP_SIZE, &number);
        a->options.expert_tp_size = (uint32_t)number;
        break;
    case EXPERT_TP_RANK:
        status = tpv_parse_int("--expert-tp-rank", optarg, 0, TPV_MAX_TP_SIZE - 1, &number);
        a->options.expert_tp_rank = (uint32_t)number;
        a->have_expert_rank = true;
        break;
    case PLAN:
        a->plan_path = optarg;
        break;
    case EXPLAIN:
        a->explain = optarg;
        break;
    case FUSE:
        a->options.fuse = true;
        break;
    case OUT:
        a->out = optarg;
        break;
    case NUL:
        a->null = true;
        break;
    case NET:
        a->net = optarg;
        break;
    case DEADLINE:
        status = tpv_cli_seconds("--deadline", optarg, &a->deadline_s);
        break;
    case COMMS:
        status = tpv_parse_int("--comms", optarg, 1, TPV_MAX_COMMS, &number);
        a->comms = (uint32_t)number;
        break;
    case CHUNK:
        status = tpv_parse_int("--chunk", optarg, TPV_MIN_CHUNK, TPV_MAX_CHUNK, &number);
        a->chunk_bytes = (uint64_t)number;
        break;
    case NO_DIGESTS:
        a->no_digests = true;
        break;
    case SHARED:
        a->shared = true;
        break;
    case TTL:
        status = tpv_cli_seconds("--ttl", optarg, &a->ttl_s);
        break;
    case HOLD:
        a->hold = true;
        break;
    case NO_FALLBACK:
        a->no_fallback = true;
        break;
    case NO_SYNC:
        a->no_sync = true;
        break;
    case WORKERS:
        status = tpv_parse_int("--workers", optarg, 0, TPV_MAX_WORKERS, &number);
        a->workers = number == 0 ? TPV_WORKERS_NONE : (int32_t)number;
        break;
    case TOKEN_FILE:
        a->token_file = optarg;
        break;
    case TLS_CA:
        a->connection.tls_ca = optarg;
        break;
    case TLS_CERT:
        a->connection.tls_cert = optarg;
        break;
    case TLS_KEY:
        a->connection.tls_key = optarg;
        break;
    case ANY_UID:
        a->connection.any_uid = true;
        break;
    case JSON:
        a->json = true;
        break;
    case REPAIR:
        a->repair = true;
        break;
    case FAMILIES:
        a->families = true;
        break;
    case WATCH:
        a->watch = true;
        a->watch_s = WATCH_DEFAULT_S;
        if (optarg) status = tpv_cli_seconds("--watch", optarg, &a->watch_s);
        break;
    }
    return status;
}

int tpv_arguments_parse(tpv_arguments_t *arguments, int argc, char **argv, const char *allowed, const char *what,
                        const char *help) {
    int words = what ? 1 : 0;
    *arguments = (tpv_arguments_t){.begin_ns = tpv_clock_ns()};
    struct option options[OPTION_COUNT + 1] = {0};
    int count = 0;
    opterr = 0;
    for (int i = 0; i < OPTION_COUNT; i++)
        if (i == HELP || is_allowed(known[i].name, allowed)) options[count++] = known[i];
    for (;;) {
        int option = getopt_long(argc, argv, ":h", options, NULL);
        if (option == -1) break;
        if (option == HELP || option == 'h') {
            fputs(help, stdout);
            return TPV_EXIT_OK;
        }
        /* getopt takes an optional value only with "=": "--watch 2" is meant as well. */
        if (option == WATCH && !optarg && optind < argc && argv[optind][0] != '-') optarg = argv[optind++];
        if (option == '?' || option == ':') return tpv_cli_bad_option(option, argv, options);
        tpv_status_t status = take(arguments, option);
        if (status != TPV_OK) return tpv_cli_fail(status);
    }
    if (argc - optind > words) return tpv_cli_usage("unexpected argument \"%s\"", argv[optind + words]);
    if (argc - optind < words) return tpv_cli_usage("expected %s", what);
    arguments->first = optind;
    return -1;
}

void tpv_arguments_clear(tpv_arguments_t *arguments) {
    free(arguments->token);
    free(arguments->plan);
}

double tpv_arguments_left(const tpv_arguments_t *arguments) {
    if (!(arguments->deadline_s > 0)) return 0;
    double left = arguments->deadline_s - (double)(tpv_clock_ns() - arguments->begin_ns) / (double)TPV_NS_PER_SECOND;
    return left > SHORTEST_S ? left : SHORTEST_S;
}

static tpv_status_t open_sources(const tpv_arguments_t *arguments, tpv_source_t **source) {
    TPV_TRY(tpv_source_open(arguments->sources[0], &arguments->connection, source));
    for (unsigned i = 1; i < arguments->source_count; i++) {
        tpv_status_t status = tpv_source_add(*source, arguments->sources[i], &arguments->connection);
        if (status == TPV_OK) continue;
        tpv_source_close(*source);
        *source = NULL;
        return status;
    }
    return TPV_OK;
}

/* The addresses are judged before the token is read. */
tpv_status_t tpv_arguments_source(tpv_arguments_t *arguments, tpv_source_t **source) {
    *source = NULL;
    TPV_TRY(open_sources(arguments, source));
    if (!arguments->token_file) return TPV_OK;
    tpv_source_close(*source);
    *source = NULL;
    TPV_TRY(tpv_cli_token(arguments->token_file, &arguments->token));
    arguments->connection.token = arguments->token;
    return open_sources(arguments, source);
}

static tpv_status_t judge_artifact(const tpv_arguments_t *arguments) {
    if (arguments->checkpoint && arguments->source_count > 0)
        return tpv_error_set(TPV_ERR_ARGUMENT, "give --checkpoint or --source, not both");
    if (arguments->checkpoint && arguments->artifact)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--artifact is for --source; --checkpoint names a folder");
    if (!arguments->checkpoint && !arguments->artifact)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--artifact NAME[@VERSION] is needed");
    return TPV_OK;
}

tpv_status_t tpv_arguments_plan(tpv_arguments_t *arguments) {
    if (!arguments->have_size || !arguments->have_rank)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--tp-size and --tp-rank are needed");
    if (arguments->options.tp_rank >= arguments->options.tp_size)
        return tpv_error_set(TPV_ERR_ARGUMENT, "tp_rank %u is not in a group of tp_size %u", arguments->options.tp_rank,
                             arguments->options.tp_size);
    if ((arguments->options.ep_size > 0) != arguments->have_ep_rank)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--ep-size and --ep-rank go together");
    if ((arguments->options.expert_tp_size > 0) != arguments->have_expert_rank)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--expert-tp-size and --expert-tp-rank go together");
    TPV_TRY(judge_artifact(arguments));
    if (!arguments->plan_path) return TPV_OK;
    TPV_TRY(tpv_cli_read_plan(arguments->plan_path, &arguments->plan, &arguments->plan_length));
    arguments->options.plan = arguments->plan;
    arguments->options.plan_length = arguments->plan_length;
    return TPV_OK;
}

tpv_status_t tpv_arguments_open(tpv_arguments_t *arguments, tpv_source_t **source, tpv_artifact_t **artifact) {
    *source = NULL;
    tpv_cli_raise_descriptor_limit();
    if (arguments->checkpoint) return tpv_artifact_open(arguments->checkpoint, artifact);
    TPV_TRY(tpv_arguments_source(arguments, source));
    tpv_status_t status = tpv_source_artifact(*source, arguments->artifact, tpv_arguments_left(arguments), artifact);
    if (status == TPV_OK) return TPV_OK;
    tpv_source_close(*source);
    *source = NULL;
    return status;
}

/* An error of the plan file names it. */
static tpv_status_t blame(const tpv_arguments_t *arguments, tpv_status_t status) {
    if (status == TPV_ERR_FORMAT && arguments->plan_path)
        return tpv_error_prefix(status, "%s", tpv_cli_plan_path(arguments->plan_path));
    return status;
}

tpv_status_t tpv_arguments_view(const tpv_arguments_t *arguments, const tpv_artifact_t *artifact, tpv_view_t **view) {
    return blame(arguments, tpv_view_plan(artifact, &arguments->options, view));
}

tpv_status_t tpv_arguments_explain(const tpv_arguments_t *arguments, const tpv_artifact_t *artifact, char **json) {
    return blame(arguments, tpv_plan_explain(artifact, &arguments->options, arguments->explain, json));
}
