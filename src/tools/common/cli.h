/* What all tools have in common: exit codes, errors, numbers, tokens. */
#ifndef TOOLS_COMMON_CLI_H
#define TOOLS_COMMON_CLI_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tpview/status.h"

enum { TPV_EXIT_OK = 0, TPV_EXIT_FAILURE = 1, TPV_EXIT_USAGE = 2 };

/* First of all in main: `tool` is the program's name. With --json among the arguments, failures are printed as a line
 * of JSON on standard output as well: {"error":{"status","message"}}. */
void tpv_cli_begin(const char *tool, int argc, char **argv);
/* The subcommand that hints point at from here on: "see tool COMMAND --help". Outlives the program. */
void tpv_cli_command(const char *command);
/* Last of all in main: what was printed must have been written, else it is a failure, said on stderr. Returns the exit
 * code; `code` is that of the work. A reader that has left (EPIPE) had enough. */
int tpv_cli_end(int code);

/* Print "tool: message" and return the exit code: usage for TPV_ERR_ARGUMENT, with a hint, failure for the rest. */
int tpv_cli_fail(tpv_status_t status);
/* Print "tool: <formatted>; see tool [COMMAND] --help" and return TPV_EXIT_USAGE. */
int tpv_cli_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* tpv_cli_usage for an option that getopt_long, called with an option string that begins with ":" and opterr 0, did not
 * take: `option` is what it returned, ':' or '?'. Names the nearest of `options` for an unknown one. The values of
 * `options` are none of the printable ASCII characters but for those that are short options too. */
int tpv_cli_bad_option(int option, char **argv, const struct option *options);
/*
 * All options of a program without subcommands, by getopt_long: `letters` begins with ":h", `options` has "help" with
 * the value `help_option`. `take` is given each in turn, with optarg. The environment is judged first (base/params.h),
 * and what is no option is an error. True when all is well; otherwise *code is what the program ends with: help was
 * asked for and printed, or what is wrong is said.
 */
bool tpv_cli_options(int argc, char **argv, const char *letters, const struct option *options, int help_option,
                     const char *help, tpv_status_t (*take)(void *user, int option), void *user, int *code);
/* Of `count` words, the one that `word` was most likely meant to be; NULL when none is near. */
const char *tpv_cli_nearest(const char *word, const char *const *words, size_t count);

/* `text`, which somebody else wrote, as it may be shown (base/text.h), in one of a few static buffers that take turns.
 * NULL stays NULL. */
const char *tpv_cli_text(const char *text);

/* Have as many descriptors as the hard limit allows: one is needed for each shard, connection and comm. The soft limit
 * is meant for programs that use select(2). */
void tpv_cli_raise_descriptor_limit(void);

#define TPV_CLI_MAX_SECONDS 1e9 /* some thirty years: in nanoseconds it can be added to any time */

/* Seconds above 0 and at most TPV_CLI_MAX_SECONDS, with fractions. TPV_ERR_ARGUMENT. */
tpv_status_t tpv_cli_seconds(const char *option, const char *text, double *seconds);

/* Read a token of one line, at most 4096 bytes, from a file that only its owner can read. The caller frees *token.
 * TPV_ERR_NOT_FOUND, TPV_ERR_PERMISSION, TPV_ERR_FORMAT. */
tpv_status_t tpv_cli_token(const char *path, char **token);

/* Print and drop a JSON value, with a newline. NULL, from lack of memory or text that is not UTF-8, makes tpv_cli_end
 * fail. */
void tpv_cli_print_json(json_t *root);

#endif
