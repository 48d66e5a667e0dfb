#include "tools/common/cli.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/error.h"
#include "base/params.h"
#include "base/small_file.h"
#include "base/text.h"

#define TOKEN_MAX 4096

/* Set in main, before there is a second thread. */
static struct {
    const char *tool, *command;
    bool json, lost; /* lost: something could not be printed */
} cli = {.tool = "tpview"};

void tpv_cli_begin(const char *tool, int argc, char **argv) {
    cli.tool = tool;
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0) cli.json = true;
}

void tpv_cli_command(const char *command) {
    cli.command = command;
}

static void print_json(json_t *root, size_t flags) {
    if (!root || json_dumpf(root, stdout, flags | JSON_REAL_PRECISION(6)) != 0)
        cli.lost = !ferror(stdout);
    else
        putchar('\n');
    json_decref(root);
}

static void tell(tpv_status_t status, const char *message) {
    fprintf(stderr, "%s: %s\n", cli.tool, message);
    /* On one line: so it fits behind lines of a watch as well. */
    if (cli.json)
        print_json(json_pack("{s:{s:s, s:s}}", "error", "status", tpv_status_name(status), "message", message),
                   JSON_COMPACT);
}

/* Whether nobody reads our output any more. */
static bool reader_has_left(void) {
    struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&output, 1, 0) > 0 && (output.revents & POLLERR);
}

int tpv_cli_end(int code) {
    errno = 0;
    bool failed = fflush(stdout) != 0 || ferror(stdout);
    if (failed && (errno == EPIPE || reader_has_left())) return code;
    if (!failed && !cli.lost) return code;
    const char *why = !failed ? ": no memory for it"
                      : errno ? strerror(errno)
                              : ""; /* "": an earlier write's is lost */
    fprintf(stderr, "%s: cannot write the output%s%s\n", cli.tool, failed && errno ? ": " : "", why);
    return code == TPV_EXIT_OK ? TPV_EXIT_FAILURE : code;
}

static const char *see(void) {
    static char text[64];
    snprintf(text, sizeof text, "; see %s%s%s --help", cli.tool, cli.command ? " " : "",
             cli.command ? cli.command : "");
    return text;
}

int tpv_cli_fail(tpv_status_t status) {
    char message[TPV_ERROR_MAX + 64];
    /* What a service refuses is not explained by our usage. */
    bool ours = status == TPV_ERR_ARGUMENT && strncmp(tpv_error_message(), "source ", 7) != 0;
    bool variable = strstr(tpv_error_message(), "TPVIEW_") != NULL;
    const char *hint = !ours ? "" : variable ? "; see tpview --help-env" : see();
    snprintf(message, sizeof message, "%s%s", tpv_error_message(), hint);
    tell(status, message);
    return status == TPV_ERR_ARGUMENT ? TPV_EXIT_USAGE : TPV_EXIT_FAILURE;
}

int tpv_cli_usage(const char *format, ...) {
    char message[TPV_ERROR_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return tpv_cli_fail(tpv_error_set(TPV_ERR_ARGUMENT, "%s", message));
}

/* Letters to put in, leave out or change to make `b` of `a` (Levenshtein); both shorter than WORD_MAX. */
#define WORD_MAX 32
static size_t distance(const char *a, const char *b) {
    size_t row[WORD_MAX], columns = strlen(b);
    for (size_t j = 0; j <= columns; j++)
        row[j] = j;
    for (size_t i = 1; *a; a++, i++) {
        size_t corner = row[0];
        row[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            size_t change = corner + (*a != b[j - 1]);
            size_t other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            corner = row[j];
            row[j] = change < other ? change : other;
        }
    }
    return row[columns];
}

const char *tpv_cli_nearest(const char *word, const char *const *words, size_t count) {
    const char *nearest = NULL;
    size_t length = strlen(word), least = length / 3 + 1;
    if (length >= WORD_MAX) return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t found = strlen(words[i]) < WORD_MAX ? distance(word, words[i]) : WORD_MAX;
        if (found > least || (nearest && found == least)) continue;
        least = found;
        nearest = words[i];
    }
    return nearest;
}

int tpv_cli_bad_option(int option, char **argv, const struct option *options) {
    char name[WORD_MAX + 2];
    const char *given = argv[optind - 1], *words[64];
    size_t count = 0;
    if (optopt > ' ' && optopt < 0x7f) { /* no long option of ours has such a number */
        if (option == ':') return tpv_cli_usage("option -%c needs a value", optopt);
        return tpv_cli_usage("unknown option -%c", optopt);
    }
    snprintf(name, sizeof name, "%.*s", (int)strcspn(given + 2, "="), given + 2);
    if (option == ':') return tpv_cli_usage("option --%s needs a value", name);
    for (; count < sizeof words / sizeof *words && options[count].name; count++) {
        words[count] = options[count].name;
        if (strcmp(name, words[count]) == 0) return tpv_cli_usage("option --%s takes no value", name);
    }
    const char *meant = tpv_cli_nearest(name, words, count);
    return tpv_cli_usage("unknown option --%s%s%s%s", name, meant ? " (did you mean --" : "", meant ? meant : "",
                         meant ? "?)" : "");
}

const char *tpv_cli_text(const char *text) {
    static char buffers[4][4096];
    static unsigned turn;
    return text ? tpv_text_shown(text, sizeof buffers[0], buffers[turn++ % 4]) : NULL;
}

void tpv_cli_raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
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

tpv_status_t tpv_cli_token(const char *path, char **token) {
    size_t length = 0;
    TPV_TRY(tpv_small_file_read(path, TOKEN_MAX, true, token, &length));
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
    print_json(root, JSON_INDENT(2));
}

bool tpv_cli_options(int argc, char **argv, const char *letters, const struct option *options, int help_option,
                     const char *help, tpv_status_t (*take)(void *user, int option), void *user, int *code) {
    opterr = 0;
    tpv_status_t status = tpv_params_check();
    for (int option; status == TPV_OK && (option = getopt_long(argc, argv, letters, options, NULL)) != -1;) {
        if (option == help_option || option == 'h') {
            fputs(help, stdout);
            *code = TPV_EXIT_OK;
            return false;
        }
        if (option == '?' || option == ':') {
            *code = tpv_cli_bad_option(option, argv, options);
            return false;
        }
        status = take(user, option);
    }
    if (status == TPV_OK && optind < argc)
        status = tpv_error_set(TPV_ERR_ARGUMENT, "unexpected argument \"%s\"", argv[optind]);
    if (status != TPV_OK) *code = tpv_cli_fail(status);
    return status == TPV_OK;
}
