/* The tpview subcommands and the options that they share. */
#ifndef TOOLS_TPVIEW_COMMAND_H
#define TOOLS_TPVIEW_COMMAND_H

#include <getopt.h>

#include "tools/common/cli.h"
#include "tpview/tpview.h"

/* All that any subcommand takes; each names the ones it knows. */
typedef struct tpv_arguments {
    const char *sources[TPV_MAX_SOURCES]; /* in the order of --source; none: the default */
    unsigned source_count;
    const char *artifact, *checkpoint, *plan_path, *token_file, *out, *net, *explain;
    tpv_source_options_t connection;
    char *token, *plan;
    size_t plan_length;
    tpv_plan_options_t options;
    bool have_size, have_rank, have_ep_rank, have_expert_rank, null, json, no_digests, no_fallback, no_sync, shared,
        hold, repair, watch, families;
    double deadline_s, ttl_s, watch_s;
    int64_t begin_ns; /* when the arguments were parsed: the deadline counts from here */
    uint32_t comms;
    int32_t workers;
    uint64_t chunk_bytes;
    int first; /* index of the first word that is not an option */
} tpv_arguments_t;

/*
 * Parse the options in `allowed` (names separated by blanks) of a subcommand that takes one word besides, `what`,
 * or none (NULL). Returns -1 to go on, or an exit code:
 * --help prints `help`. The caller frees with tpv_arguments_clear in either case.
 */
int tpv_arguments_parse(tpv_arguments_t *arguments, int argc, char **argv, const char *allowed, const char *what,
                        const char *help);
void tpv_arguments_clear(tpv_arguments_t *arguments);

/* What is left of --deadline, above 0; 0 when there is none. Every step of a command takes it from here, so that they
 * share one deadline. */
double tpv_arguments_left(const tpv_arguments_t *arguments);

/* The options of tpv_arguments_source, and what --help says of them. */
#define TPV_OPTIONS_CONNECTION "source token-file tls-ca tls-cert tls-key any-uid"
#define TPV_HELP_CONNECTION                                                                                            \
    "  --source ADDR       unix:PATH, HOST:PORT, or https://HOST:PORT for TLS (default: unix: and this user's\n"       \
    "                      $XDG_RUNTIME_DIR/tpviewd.sock, or /tmp/tpview-UID/tpviewd.sock without that variable)\n"    \
    "  --any-uid           with unix: trust the service whoever runs it, not only this user's or root's\n"             \
    "  --token-file FILE   bearer token for a service on TCP\n"                                                        \
    "  --tls-ca FILE       with https://: who may have signed the service's certificate (default: whom this\n"         \
    "                      host trusts)\n"                                                                             \
    "  --tls-cert FILE, --tls-key FILE\n"                                                                              \
    "                      with https://: our own certificate, for a service that asks for one\n"

/* The services of --source. Nothing is sent yet. Reads --token-file and the files of TLS.
 * TPV_ERR_ARGUMENT; what tpv_cli_token and tpv_source_open return. */
tpv_status_t tpv_arguments_source(tpv_arguments_t *arguments, tpv_source_t **source);

/* --tp-size and --tp-rank, and --checkpoint or --source with --artifact, are given and agree; TPV_ERR_ARGUMENT
 * otherwise. Only then --plan is read. */
tpv_status_t tpv_arguments_plan(tpv_arguments_t *arguments);

/* After tpv_arguments_plan: the artifact of --checkpoint, or of --source with --artifact (*source is then open, else
 * NULL). */
tpv_status_t tpv_arguments_open(tpv_arguments_t *arguments, tpv_source_t **source, tpv_artifact_t **artifact);

/* The view that the options and --plan ask for; an error of the plan names its file. As tpv_view_plan. */
tpv_status_t tpv_arguments_view(const tpv_arguments_t *arguments, const tpv_artifact_t *artifact, tpv_view_t **view);
/* What they make of --explain. As tpv_plan_explain. */
tpv_status_t tpv_arguments_explain(const tpv_arguments_t *arguments, const tpv_artifact_t *artifact, char **json);

/* Print it, as text or with --json as it is. */
tpv_status_t tpv_explain_print(const tpv_arguments_t *arguments, const tpv_artifact_t *artifact);

int tpv_command_ls(int argc, char **argv);
int tpv_command_plan(int argc, char **argv);
int tpv_command_fetch(int argc, char **argv);
int tpv_command_verify(int argc, char **argv);
int tpv_command_publish(int argc, char **argv);
int tpv_command_retire(int argc, char **argv);
int tpv_command_leases(int argc, char **argv);
int tpv_command_doctor(int argc, char **argv);

#endif
