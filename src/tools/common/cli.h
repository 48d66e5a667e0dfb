/* What all tools have in common: exit codes, errors, numbers, tokens. */
#ifndef TOOLS_COMMON_CLI_H
#define TOOLS_COMMON_CLI_H

#include <jansson.h>
#include <stdint.h>

#include "tpview/status.h"

enum { TPV_EXIT_OK = 0, TPV_EXIT_FAILURE = 1, TPV_EXIT_USAGE = 2 };

/* Print "tool: message" and return the exit code: usage for TPV_ERR_ARGUMENT, failure for the rest. */
int tpv_cli_fail(const char *tool, tpv_status_t status);
/* Print "tool: <formatted>; see tool --help" and return TPV_EXIT_USAGE. */
int tpv_cli_usage(const char *tool, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define TPV_CLI_MAX_SECONDS 1e9 /* some thirty years: in nanoseconds it can be added to any time */

/* Seconds above 0 and at most TPV_CLI_MAX_SECONDS, with fractions. TPV_ERR_ARGUMENT. */
tpv_status_t tpv_cli_seconds(const char *option, const char *text, double *seconds);

/* Read a token of one line, at most 4096 bytes, from a file that only its owner can read. The caller frees *token.
 * TPV_ERR_NOT_FOUND, TPV_ERR_PERMISSION, TPV_ERR_FORMAT. */
tpv_status_t tpv_cli_token(const char *path, char **token);

/* Read a whole file of at most `limit` bytes, with a zero behind; the caller frees *text. TPV_ERR_NOT_FOUND,
 * TPV_ERR_FORMAT when it is longer, TPV_ERR_SYSTEM. */
tpv_status_t tpv_cli_read(const char *path, size_t limit, char **text, size_t *length);

/* Print and drop a JSON value, with a newline. */
void tpv_cli_print_json(json_t *root);

#endif
