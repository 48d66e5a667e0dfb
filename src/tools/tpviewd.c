/* tpviewd: the view-export service. Argument parsing and its life; the work is in src/service. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/default_socket.h"
#include "base/error.h"
#include "base/log.h"
#include "base/params.h"
#include "service/service.h"
#include "tools/common/cli.h"
#include "tools/common/progress.h"
#include "tools/common/stop_signals.h"
#include "tpview/tpview.h"

static const char help[] =
    "Usage: tpviewd NAME@VERSION=DIR... [OPTION...]\n"
    "\n"
    "Serve tensor-parallel views of checkpoints. DIR is a folder as Hugging Face lays it out, or one\n"
    ".safetensors file. When it can serve, it prints a line that begins with \"tpviewd: ready\" and names\n"
    "its addresses. SIGTERM, SIGINT and SIGHUP end it; a second one makes it wait for no fetch.\n"
    "\n"
    "  --unix PATH          Unix socket of the control API, mode 0600 (default: $XDG_RUNTIME_DIR/tpviewd.sock, or\n"
    "                       /tmp/tpview-UID/tpviewd.sock without that variable; none when only --listen is given)\n"
    "  --listen HOST:PORT   also serve on TCP; port 0 picks one, and a HOST of IPv4 and IPv6, such as\n"
    "                       localhost, is listened to on both. An address that other hosts can reach needs\n"
    "                       --token-file, --tls-client-ca or --insecure\n"
    "  --token-file FILE    bearer token that TCP clients must show; only its owner may read the file\n"
    "  --admin-token-file FILE\n"
    "                       bearer token of TCP clients that may publish and retire as well\n"
    "  --tls-cert FILE, --tls-key FILE\n"
    "                       speak TLS on --listen with this certificate (PEM, the chain behind it) and its key, which\n"
    "                       only its owner may read; clients then write https://HOST:PORT\n"
    "  --tls-client-ca FILE only for clients whose own certificate comes from an authority in FILE (mutual TLS)\n"
    "  --publish-root DIR   TCP clients may publish what lies below DIR (may be repeated; default: nothing)\n"
    "  --allow-net CIDR     send data also to ranks' addresses in this network (may be repeated; default: the\n"
    "                       networks of this host that the rank's control connection comes from). Applies to TCP\n"
    "                       clients and net plugin tpview\n"
    "  --insecure           let anybody who can reach --listen fetch\n"
    "  --net PLUGIN         net plugin, a name or a path (default: NCCL_NET_PLUGIN, else tpview)\n"
    "  --threads N          threads that gather and digest (default: TPVIEW_THREADS)\n"
    "  --max-fetches N      fetches at the same time (default 256)\n"
    "  --lease-ttl SECONDS  end a fetch when no byte moved for so long (default 60). Once bytes have moved, a rank's "
    "own\n"
    "                       deadline counts instead\n"
    "  --idle-timeout SECONDS\n"
    "                       close a control connection on which nobody asked for anything for so long (default 75)\n"
    "  --budget BYTES       memory for cached exports and staging (default: TPVIEW_BUDGET, else half of what is "
    "available)\n"
    "  --export-ttl SECONDS keep an export so long after its last movement (default: TPVIEW_EXPORT_TTL)\n"
    "  --drain SECONDS      at the end, how long fetches in flight may finish (default 10)\n"
    "  --help, --help-env, --version\n"
    "\n"
    "Examples:\n"
    "  tpviewd qwen3-14b@1=/models/qwen3-14b\n"
    "  tpviewd a@1=/models/a a@2=/models/a-new --listen 10.0.0.5:7070 --token-file ~/.tpview-token\n";

enum {
    OPT_UNIX = 256,
    OPT_LISTEN,
    OPT_TOKEN_FILE,
    OPT_ADMIN_TOKEN_FILE,
    OPT_TLS_CERT,
    OPT_TLS_KEY,
    OPT_TLS_CLIENT_CA,
    OPT_PUBLISH_ROOT,
    OPT_ALLOW_NET,
    OPT_INSECURE,
    OPT_NET,
    OPT_THREADS,
    OPT_MAX_FETCHES,
    OPT_LEASE_TTL,
    OPT_IDLE_TIMEOUT,
    OPT_BUDGET,
    OPT_EXPORT_TTL,
    OPT_DRAIN,
    OPT_HELP,
    OPT_HELP_ENV,
    OPT_VERSION
};

static const struct option long_options[] = {{"unix", required_argument, NULL, OPT_UNIX},
                                             {"listen", required_argument, NULL, OPT_LISTEN},
                                             {"token-file", required_argument, NULL, OPT_TOKEN_FILE},
                                             {"admin-token-file", required_argument, NULL, OPT_ADMIN_TOKEN_FILE},
                                             {"tls-cert", required_argument, NULL, OPT_TLS_CERT},
                                             {"tls-key", required_argument, NULL, OPT_TLS_KEY},
                                             {"tls-client-ca", required_argument, NULL, OPT_TLS_CLIENT_CA},
                                             {"publish-root", required_argument, NULL, OPT_PUBLISH_ROOT},
                                             {"allow-net", required_argument, NULL, OPT_ALLOW_NET},
                                             {"insecure", no_argument, NULL, OPT_INSECURE},
                                             {"net", required_argument, NULL, OPT_NET},
                                             {"threads", required_argument, NULL, OPT_THREADS},
                                             {"max-fetches", required_argument, NULL, OPT_MAX_FETCHES},
                                             {"lease-ttl", required_argument, NULL, OPT_LEASE_TTL},
                                             {"idle-timeout", required_argument, NULL, OPT_IDLE_TIMEOUT},
                                             {"budget", required_argument, NULL, OPT_BUDGET},
                                             {"export-ttl", required_argument, NULL, OPT_EXPORT_TTL},
                                             {"drain", required_argument, NULL, OPT_DRAIN},
                                             {"help", no_argument, NULL, OPT_HELP},
                                             {"help-env", no_argument, NULL, OPT_HELP_ENV},
                                             {"version", no_argument, NULL, OPT_VERSION},
                                             {NULL, 0, NULL, 0}};

typedef struct {
    tpv_service_options_t service;
    const char *token_file, *admin_token_file, *tls_cert, *tls_key, *tls_client_ca;
    char *token, *admin_token;
    tpv_tls_files_t tls;
    const char **publish_roots; /* ends with NULL */
    size_t publish_root_count;
    tpv_networks_t allow_net;
    double drain_s;
    char default_unix[TPV_SOCKET_PATH_MAX];
} daemon_t;

static tpv_status_t add_publish_root(daemon_t *d, const char *root) {
    struct stat folder;
    if (stat(root, &folder) != 0 || !S_ISDIR(folder.st_mode))
        return tpv_error_set(TPV_ERR_ARGUMENT, "--publish-root %s is not a folder", root);
    const char **grown = reallocarray(d->publish_roots, d->publish_root_count + 2, sizeof *grown);
    if (!grown) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for --publish-root");
    grown[d->publish_root_count++] = root;
    grown[d->publish_root_count] = NULL;
    d->publish_roots = grown;
    return TPV_OK;
}

/* -1: go on; otherwise an exit code. */
static int take_option(daemon_t *d, int option, char **argv) {
    int64_t number = 0;
    tpv_status_t status = TPV_OK;
    switch (option) {
    case OPT_UNIX:
        d->service.unix_path = optarg;
        break;
    case OPT_LISTEN:
        d->service.listen = optarg;
        break;
    case OPT_TOKEN_FILE:
        d->token_file = optarg;
        break;
    case OPT_ADMIN_TOKEN_FILE:
        d->admin_token_file = optarg;
        break;
    case OPT_TLS_CERT:
        d->tls_cert = optarg;
        break;
    case OPT_TLS_KEY:
        d->tls_key = optarg;
        break;
    case OPT_TLS_CLIENT_CA:
        d->tls_client_ca = optarg;
        break;
    case OPT_PUBLISH_ROOT:
        status = add_publish_root(d, optarg);
        break;
    case OPT_ALLOW_NET:
        status = tpv_networks_add(&d->allow_net, optarg);
        if (status != TPV_OK) tpv_error_prefix(status, "--allow-net");
        break;
    case OPT_INSECURE:
        d->service.insecure = true;
        break;
    case OPT_NET:
        d->service.net = optarg;
        break;
    case OPT_THREADS:
        status = tpv_parse_int("--threads", optarg, 1, 1024, &number);
        d->service.threads = (unsigned)number;
        break;
    case OPT_MAX_FETCHES:
        status = tpv_parse_int("--max-fetches", optarg, 1, 16384, &number);
        d->service.max_fetches = (unsigned)number;
        break;
    case OPT_LEASE_TTL:
        status = tpv_cli_seconds("--lease-ttl", optarg, &d->service.lease_ttl_s);
        break;
    case OPT_IDLE_TIMEOUT:
        status = tpv_cli_seconds("--idle-timeout", optarg, &d->service.idle_s);
        break;
    case OPT_BUDGET:
        status = tpv_parse_int("--budget", optarg, 1, INT64_MAX, &number);
        d->service.budget = (uint64_t)number;
        break;
    case OPT_EXPORT_TTL:
        status = tpv_cli_seconds("--export-ttl", optarg, &d->service.export_ttl_s);
        break;
    case OPT_DRAIN:
        status = tpv_cli_seconds("--drain", optarg, &d->drain_s);
        break;
    case 'h':
    case OPT_HELP:
        fputs(help, stdout);
        return TPV_EXIT_OK;
    case OPT_HELP_ENV:
        tpv_params_print(stdout);
        return TPV_EXIT_OK;
    case OPT_VERSION:
        printf("tpviewd %s\n", tpv_version());
        return TPV_EXIT_OK;
    default:
        return tpv_cli_bad_option(option, argv, long_options);
    }
    return status == TPV_OK ? -1 : tpv_cli_fail(status);
}

static tpv_status_t choose_unix_path(daemon_t *d) {
    if (d->service.unix_path || d->service.listen) return TPV_OK;
    d->service.unix_path = d->default_unix;
    return tpv_default_socket(true, d->default_unix);
}

/* Signals are blocked already: a digest of a large checkpoint must end for them as well. */
static bool draw_unless_signalled(void *user, uint64_t done, uint64_t total) {
    if (tpv_stop_signals_pending()) return false;
    return tpv_progress_draw(user, done, total);
}

static tpv_status_t judge_tls(const daemon_t *d) {
    if (!d->tls_cert != !d->tls_key)
        return tpv_error_set(TPV_ERR_ARGUMENT, "%s is given without %s", d->tls_cert ? "--tls-cert" : "--tls-key",
                             d->tls_cert ? "--tls-key" : "--tls-cert");
    if (d->tls_client_ca && !d->tls_cert)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--tls-client-ca is given without --tls-cert and --tls-key");
    if (d->tls_cert && !d->service.listen)
        return tpv_error_set(TPV_ERR_ARGUMENT, "--tls-cert is given without --listen: the Unix socket has no TLS");
    return TPV_OK;
}

/* All that can be judged by the arguments alone. */
static tpv_status_t judge(const daemon_t *d, char **definitions, int count, tpv_entry_t **entries) {
    for (int i = 0; i < count; i++) {
        TPV_TRY(tpv_entry_create(definitions[i], &entries[i]));
        for (int other = 0; other < i; other++)
            if (strcmp(entries[other]->label, entries[i]->label) == 0)
                return tpv_error_set(TPV_ERR_ARGUMENT, "artifact %s is given twice", entries[i]->label);
    }
    tpv_service_options_t options = d->service;
    options.token = d->token_file;
    options.admin_token = d->admin_token_file;
    const tpv_tls_files_t tls = {.ca = (char *)(uintptr_t)d->tls_client_ca};
    options.tls = &tls;
    TPV_TRY(judge_tls(d));
    return tpv_service_check(&options);
}

static tpv_status_t read_secrets(daemon_t *d) {
    if (d->token_file) TPV_TRY(tpv_cli_token(d->token_file, &d->token));
    if (d->admin_token_file) TPV_TRY(tpv_cli_token(d->admin_token_file, &d->admin_token));
    TPV_TRY(tpv_tls_files_read(d->tls_client_ca, d->tls_cert, d->tls_key, &d->tls));
    d->service.token = d->token;
    d->service.admin_token = d->admin_token;
    if (d->tls_cert) d->service.tls = &d->tls;
    if (d->tls.has_expired) TPV_WARN("%s: the certificate has expired: clients will refuse it", d->tls_cert);
    return TPV_OK;
}

static tpv_status_t open_entries(tpv_entry_t **entries, int count, unsigned threads) {
    for (int i = 0; i < count; i++) {
        tpv_progress_bar_t bar = tpv_progress_bar("digest");
        tpv_status_t status = tpv_entry_open(entries[i], threads, draw_unless_signalled, &bar);
        tpv_progress_end(&bar);
        if (status != TPV_OK) return status;
    }
    return TPV_OK;
}

static tpv_status_t open_service(daemon_t *d, char **definitions, int count, tpv_service_t **service) {
    tpv_entry_t **entries = calloc((size_t)count, sizeof *entries);
    if (!entries) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for %d artifacts", count);
    tpv_status_t status = judge(d, definitions, count, entries);
    if (status == TPV_OK) status = read_secrets(d);
    if (status == TPV_OK) status = open_entries(entries, count, d->service.threads);
    if (status == TPV_OK) status = tpv_service_open(&d->service, entries, (size_t)count, service);
    for (int i = 0; i < count; i++)
        tpv_entry_release(entries[i]);
    free(entries);
    return status;
}

typedef struct {
    tpv_service_t *service;
    sigset_t signals;
} hurry_t;

/* A second signal: no more waiting, but the same orderly end. */
static void *hurry(void *argument) {
    hurry_t *h = argument;
    int number = 0;
    for (;;)
        if (sigwait(&h->signals, &number) == 0) tpv_service_hurry(h->service);
    return NULL;
}

static void stop(tpv_service_t *service, double drain_s, sigset_t signals) {
    hurry_t h = {service, signals};
    pthread_t thread;
    bool started = pthread_create(&thread, NULL, hurry, &h) == 0;
    tpv_service_stop(service, drain_s);
    if (started) {
        pthread_cancel(thread); /* in sigwait */
        pthread_join(thread, NULL);
    }
    tpv_service_close(service);
}

static int serve(daemon_t *d, char **definitions, int count) {
    /* Blocked before any thread exists, so that all inherit it and only sigwait takes them. */
    sigset_t signals = tpv_stop_signals();
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    tpv_cli_raise_descriptor_limit();

    tpv_service_t *service = NULL;
    tpv_status_t status = open_service(d, definitions, count, &service);
    if (status != TPV_OK) return tpv_cli_fail(status);
    printf("tpviewd: ready %s (net plugin %s, %d artifact%s)\n", tpv_cli_text(tpv_http_server_addresses(service->http)),
           tpv_cli_text(service->net->abi.name), count, count == 1 ? "" : "s");
    fflush(stdout);

    int signal_number = 0;
    sigwait(&signals, &signal_number);
    stop(service, d->drain_s, signals);
    return TPV_EXIT_OK;
}

int main(int argc, char **argv) {
    daemon_t d = {.service = {.max_fetches = 256, .lease_ttl_s = 60, .idle_s = 75}, .drain_s = 10};
    int code = -1;
    tpv_cli_begin("tpviewd", argc, argv);
    opterr = 0;
    while (code < 0) {
        int option = getopt_long(argc, argv, ":h", long_options, NULL);
        if (option == -1) break;
        code = take_option(&d, option, argv);
    }
    if (code < 0 && tpv_params_check() != TPV_OK) code = tpv_cli_fail(TPV_ERR_ARGUMENT);
    if (code < 0 && optind == argc) code = tpv_cli_usage("expected NAME@VERSION=DIR");
    if (code < 0) {
        if (!d.service.threads) d.service.threads = (unsigned)tpv_param_int(TPV_PARAM_THREADS);
        if (!d.service.budget) d.service.budget = (uint64_t)tpv_param_int(TPV_PARAM_BUDGET);
        if (!(d.service.export_ttl_s > 0)) d.service.export_ttl_s = (double)tpv_param_int(TPV_PARAM_EXPORT_TTL);
        d.service.publish_roots = d.publish_roots;
        d.service.allow_net = &d.allow_net;
        tpv_status_t status = choose_unix_path(&d);
        code = status == TPV_OK ? serve(&d, argv + optind, argc - optind) : tpv_cli_fail(status);
    }
    free(d.token);
    free(d.admin_token);
    tpv_tls_files_clear(&d.tls);
    free(d.publish_roots);
    tpv_networks_clear(&d.allow_net);
    return tpv_cli_end(code);
}
