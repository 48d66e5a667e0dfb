#include "tools/common/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

#define TOKEN_MAX 4096

int tpv_cli_fail(const char *tool, tpv_status_t status) {
    fprintf(stderr, "%s: %s\n", tool, tpv_error_message());
    return status == TPV_ERR_ARGUMENT ? TPV_EXIT_USAGE : TPV_EXIT_FAILURE;
}

int tpv_cli_usage(const char *tool, const char *format, ...) {
    va_list arguments;
    fprintf(stderr, "%s: ", tool);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "; see %s --help\n", tool);
    return TPV_EXIT_USAGE;
}

tpv_status_t tpv_cli_seconds(const char *option, const char *text, double *seconds) {
    char *end = NULL;
    errno = 0;
    *seconds = strtod(text, &end);
    if (end == text || *end || errno || !(*seconds > 0) || *seconds > TPV_CLI_MAX_SECONDS)
        return tpv_error_set(TPV_ERR_ARGUMENT, "%s \"%s\": expected seconds above 0 and at most %.0f", option, text,
                             TPV_CLI_MAX_SECONDS);
    return TPV_OK;
}

tpv_status_t tpv_cli_read(const char *path, size_t limit, char **text, size_t *length) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return tpv_error_set_errno(errno == ENOENT ? TPV_ERR_NOT_FOUND : TPV_ERR_SYSTEM, errno, "cannot open %s", path);
    tpv_status_t status = TPV_OK;
    char *buffer = NULL;
    size_t have = 0, room = 0;
    for (ssize_t got = 1; status == TPV_OK && got > 0;) {
        if (have + 1 >= room) {
            room = room ? 2 * room : 65536;
            char *grown = realloc(buffer, room);
            if (!grown) {
                status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to read %s", path);
                break;
            }
            buffer = grown;
        }
        got = read(descriptor, buffer + have, room - have - 1);
        if (got < 0) status = tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot read %s", path);
        if (got > 0) have += (size_t)got;
        if (have > limit) status = tpv_error_set(TPV_ERR_FORMAT, "%s is longer than %zu bytes", path, limit);
    }
    close(descriptor);
    if (status != TPV_OK) {
        free(buffer);
        return status;
    }
    buffer[have] = '\0';
    *text = buffer;
    *length = have;
    return TPV_OK;
}

tpv_status_t tpv_cli_token(const char *path, char **token) {
    struct stat file;
    if (stat(path, &file) == 0 && (file.st_mode & 077))
        return tpv_error_set(TPV_ERR_PERMISSION, "%s can be read by others: chmod 600 it", path);
    size_t length = 0;
    TPV_TRY(tpv_cli_read(path, TOKEN_MAX, token, &length));
    while (length > 0 && strchr("\r\n", (*token)[length - 1]))
        (*token)[--length] = '\0';
    for (size_t i = 0; i < length; i++) {
        if ((*token)[i] > ' ' && (*token)[i] < 0x7f) continue;
        length = 0;
    }
    if (length > 0) return TPV_OK;
    free(*token);
    *token = NULL;
    return tpv_error_set(TPV_ERR_FORMAT, "%s: expected a token of one line without blanks", path);
}

void tpv_cli_print_json(json_t *root) {
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
}
