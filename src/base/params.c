#include "base/params.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"

extern char **environ;

typedef enum { KIND_INT, KIND_CHOICE, KIND_STRING } kind_t;

typedef struct {
    const char *name;
    kind_t kind;
    const char *initial; /* default, as a user would write it */
    int64_t low, high;   /* bounds of an integer, longest length of a string, number of words */
    const char *sentence;
    const char *words[4]; /* of a choice, whose value is their index */
} entry_t;

static const entry_t table[TPV_PARAM_COUNT] = {
    [TPV_PARAM_DEBUG] = {"TPVIEW_DEBUG",
                         KIND_CHOICE,
                         "WARN",
                         0,
                         4,
                         "Log level: NONE, WARN, INFO or TRACE.",
                         {"NONE", "WARN", "INFO", "TRACE"}},
    [TPV_PARAM_LOG_FORMAT] =
        {"TPVIEW_LOG_FORMAT", KIND_CHOICE, "text", 0, 2, "How log lines look: text or json.", {"text", "json"}},
    [TPV_PARAM_NAMESPACE] = {"TPVIEW_NAMESPACE", KIND_STRING, "default", 1, 32,
                             "Name of the lease table that processes of this host share (letters, digits, - and _)."},
    [TPV_PARAM_CACHE_DIR] = {"TPVIEW_CACHE_DIR", KIND_STRING, "", 0, 4000,
                             "Folder for cached digests; empty means tpview below $XDG_CACHE_HOME or ~/.cache."},
    [TPV_PARAM_COMMS] = {"TPVIEW_COMMS", KIND_INT, "1", 1, 64, "Comms over which one fetch deals its chunks."},
    [TPV_PARAM_CHUNK_BYTES] = {"TPVIEW_CHUNK_BYTES", KIND_INT, "1M", 4096, INT64_C(64) << 20,
                               "Longest chunk that a rank takes and a source sends, which are powers of two."},
    [TPV_PARAM_THREADS] = {"TPVIEW_THREADS", KIND_INT, "0", 0, 1024,
                           "Threads that gather and digest; 0 means one for each core."},
    [TPV_PARAM_WORKERS] = {"TPVIEW_WORKERS", KIND_INT, "0", -1, 1024,
                           "Threads of a fetch that compare digests, copy and write: 0 means by cores, -1 none."},
    [TPV_PARAM_BUDGET] =
        {"TPVIEW_BUDGET", KIND_INT, "0", 0, INT64_MAX,
         "Bytes that a service may take for cached exports and staging; 0 means half of available memory."},
    [TPV_PARAM_EXPORT_TTL] = {"TPVIEW_EXPORT_TTL", KIND_INT, "300", 1, 31536000,
                              "Seconds that a service keeps a cached export after its last movement."},
    [TPV_PARAM_SHARED_TTL] = {"TPVIEW_SHARED_TTL", KIND_INT, "600", 1, 365 * 24 * 3600,
                              "Seconds that a view shared by the ranks of a host stays after its last use."},
    [TPV_PARAM_SOURCE_TIMEOUT] = {"TPVIEW_SOURCE_TIMEOUT", KIND_INT, "10", 1, 31536000,
                                  "Seconds without a byte after which a source is left for the next one, or its word "
                                  "on the end of a whole fetch is "
                                  "waited for no longer."},
};

/* Written once under pthread_once, read-only after. */
static struct {
    int64_t number;
    const char *string;
} values[TPV_PARAM_COUNT];
static char first_error[TPV_ERROR_MAX];
static tpv_status_t first_status = TPV_OK;
static pthread_once_t once = PTHREAD_ONCE_INIT;

tpv_status_t tpv_parse_int(const char *what, const char *text, int64_t low, int64_t high, int64_t *value) {
    char *end = NULL;
    errno = 0;
    long long number = isspace((unsigned char)*text) ? 0 : strtoll(text, &end, 10);
    int shift = 0;
    bool good = end && end != text && errno == 0;
    if (good && *end) {
        static const char suffixes[] = "KMGT";
        const char *suffix = strchr(suffixes, toupper((unsigned char)*end));
        good = suffix && end[1] == '\0';
        if (good) shift = 10 * (int)(suffix - suffixes + 1);
    }
    long long scaled = 0;
    if (good) good = !__builtin_mul_overflow(number, 1LL << shift, &scaled);
    if (!good)
        return tpv_error_set(TPV_ERR_ARGUMENT, "%s=\"%s\" is not a whole number (K, M, G and T may follow)", what,
                             text);
    if (scaled < low || scaled > high)
        return tpv_error_set(TPV_ERR_ARGUMENT, "%s=%s is out of range: expected %lld to %lld", what, text,
                             (long long)low, (long long)high);
    *value = scaled;
    return TPV_OK;
}

static tpv_status_t parse_choice(const entry_t *entry, const char *text, int64_t *value) {
    char expected[64] = "";
    for (int i = 0; i < entry->high; i++) {
        if (strcasecmp(text, entry->words[i]) == 0) {
            *value = i;
            return TPV_OK;
        }
        size_t length = strlen(expected);
        snprintf(expected + length, sizeof expected - length, "%s%s",
                 i == 0                ? ""
                 : i + 1 < entry->high ? ", "
                                       : " or ",
                 entry->words[i]);
    }
    return tpv_error_set(TPV_ERR_ARGUMENT, "%s=\"%s\": expected %s", entry->name, text, expected);
}

static tpv_status_t parse(int index, const char *text) {
    const entry_t *entry = &table[index];
    switch (entry->kind) {
    case KIND_INT:
        return tpv_parse_int(entry->name, text, entry->low, entry->high, &values[index].number);
    case KIND_CHOICE:
        return parse_choice(entry, text, &values[index].number);
    case KIND_STRING: {
        int64_t length = (int64_t)strlen(text);
        if (length < entry->low || length > entry->high)
            return tpv_error_set(TPV_ERR_ARGUMENT, "%s has %lld bytes: expected %lld to %lld", entry->name,
                                 (long long)length, (long long)entry->low, (long long)entry->high);
        values[index].string = text;
        return TPV_OK;
    }
    }
    return TPV_OK;
}

static void load(void) {
    for (int i = 0; i < TPV_PARAM_COUNT; i++) {
        values[i].string = "";
        parse(i, table[i].initial);
        const char *text = getenv(table[i].name);
        if (!text || !*text) continue;
        tpv_status_t status = parse(i, text);
        if (status == TPV_OK || first_status != TPV_OK) continue;
        first_status = status;
        snprintf(first_error, sizeof first_error, "%s", tpv_error_message());
    }
}

int64_t tpv_param_int(tpv_param_t param) {
    pthread_once(&once, load);
    return values[param].number;
}

const char *tpv_param_string(tpv_param_t param) {
    pthread_once(&once, load);
    return values[param].string;
}

static bool has_name(const char *variable, const char *name) {
    size_t length = strlen(name);
    return strncmp(variable, name, length) == 0 && variable[length] == '=';
}

/* TPVIEW_NET_* belongs to the plugin, which has a table of its own. */
static bool known(const char *variable) {
    static const char *const of_python[] = {"TPVIEW_LIBRARY", "TPVIEW_SOURCE",   "TPVIEW_TOKEN_FILE",
                                            "TPVIEW_TLS_CA",  "TPVIEW_TLS_CERT", "TPVIEW_TLS_KEY"};
    if (strncmp(variable, "TPVIEW_NET_", 11) == 0) return true;
    for (int i = 0; i < TPV_PARAM_COUNT; i++)
        if (has_name(variable, table[i].name)) return true;
    for (size_t i = 0; i < sizeof of_python / sizeof *of_python; i++)
        if (has_name(variable, of_python[i])) return true;
    return false;
}

tpv_status_t tpv_params_check(void) {
    pthread_once(&once, load);
    for (char **variable = environ; *variable; variable++)
        if (strncmp(*variable, "TPVIEW_", 7) == 0 && !known(*variable))
            TPV_WARN("unknown environment variable %.*s: see --help-env", (int)strcspn(*variable, "="), *variable);
    if (first_status != TPV_OK) return tpv_error_set(first_status, "%s", first_error);
    return TPV_OK;
}

void tpv_params_print(FILE *stream) {
    fprintf(stream, "| variable | default | range | meaning |\n| --- | --- | --- | --- |\n");
    for (int i = 0; i < TPV_PARAM_COUNT; i++) {
        const entry_t *entry = &table[i];
        char range[64] = "";
        if (entry->kind == KIND_INT)
            snprintf(range, sizeof range, "%lld to %lld", (long long)entry->low, (long long)entry->high);
        fprintf(stream, "| `%s` | %s | %s | %s |\n", entry->name, entry->initial, range, entry->sentence);
    }
}
