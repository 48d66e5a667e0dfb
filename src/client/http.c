#include "client/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "client/http_tls.h"

struct tpv_http {
    char *address;
    char *base; /* of URLs */
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    int descriptor;
    bool running;
    bool strange;                 /* somebody else listens on the Unix socket: nothing was sent */
    uid_t stranger;               /* who */
    char detail[CURL_ERROR_SIZE]; /* curl's own words for what failed */
    char *body;
    size_t length, capacity;
    bool too_long, no_memory;
    int no_socket; /* errno of the last one that could not be had */
    bool told;     /* an error, by the service */
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void curl_start(void) {
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t on_body(char *data, size_t size, size_t count, void *user) {
    tpv_http_t *http = user;
    size_t bytes = size * count;
    if (bytes > TPV_HTTP_MAX_RESPONSE - http->length) {
        http->too_long = true;
        return 0;
    }
    if (http->length + bytes + 1 > http->capacity) {
        size_t capacity = 2 * (http->length + bytes + 1);
        char *grown = realloc(http->body, capacity);
        if (!grown) {
            http->no_memory = true;
            return 0;
        }
        http->body = grown;
        http->capacity = capacity;
    }
    memcpy(http->body + http->length, data, bytes);
    http->length += bytes;
    http->body[http->length] = '\0';
    return bytes;
}

/* curl does not tell why there is no socket. */
static curl_socket_t on_open(void *user, curlsocktype purpose, struct curl_sockaddr *address) {
    (void)purpose;
    tpv_http_t *http = user;
    http->descriptor = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (http->descriptor >= 0) return http->descriptor;
    http->no_socket = errno;
    return CURL_SOCKET_BAD;
}

static int on_close(void *user, curl_socket_t descriptor) {
    tpv_http_t *http = user;
    if (http->descriptor == descriptor) http->descriptor = -1;
    return close(descriptor);
}

/* Connected, nothing is sent yet. In a folder where others may write, anybody may have made the socket: the kernel
 * knows who listens (unix(7), SO_PEERCRED). */
static int on_connected(void *user, char *peer, char *local, int peer_port, int local_port) {
    (void)peer, (void)local, (void)peer_port, (void)local_port;
    tpv_http_t *http = user;
    struct ucred listener = {.uid = (uid_t)-1};
    socklen_t bytes = sizeof listener;
    getsockopt(http->descriptor, SOL_SOCKET, SO_PEERCRED, &listener, &bytes);
    http->stranger = listener.uid;
    http->strange = listener.uid != 0 && listener.uid != geteuid();
    return http->strange ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

#define UNIX "unix:"
#define TLS "https://"

static bool is_unix(const char *address) {
    return strncmp(address, UNIX, strlen(UNIX)) == 0;
}

static bool is_tls(const char *address) {
    return strncmp(address, TLS, strlen(TLS)) == 0;
}

/* "HOST:PORT", where an IPv6 HOST is in brackets. */
static bool is_host_port(const char *address) {
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || !colon[1] || strlen(colon + 1) > 5) return false;
    if (strspn(colon + 1, "0123456789") != strlen(colon + 1)) return false;
    long port = strtol(colon + 1, NULL, 10);
    bool bracketed = address[0] == '[' && colon[-1] == ']';
    size_t host = strcspn(address, ":/@?#");
    return port >= 1 && port <= 65535 && (bracketed || address + host == colon);
}

static tpv_status_t add_headers(tpv_http_t *http, const char *token) {
    /* No "Expect: 100-continue": it would cost a round trip for each larger request. */
    http->headers = curl_slist_append(http->headers, "Expect:");
    http->headers = curl_slist_append(http->headers, "Content-Type: application/json");
    if (token) {
        char *line = NULL;
        if (asprintf(&line, "Authorization: Bearer %s", token) < 0) return TPV_ERR_NO_MEMORY;
        http->headers = curl_slist_append(http->headers, line);
        free(line);
    }
    curl_easy_setopt(http->easy, CURLOPT_HTTPHEADER, http->headers);
    return http->headers ? TPV_OK : TPV_ERR_NO_MEMORY;
}

static tpv_status_t configure(tpv_http_t *http, const tpv_source_options_t *options) {
    curl_easy_setopt(http->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(http->easy, CURLOPT_PROTOCOLS_STR, is_tls(http->address) ? "https" : "http");
    curl_easy_setopt(http->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(http->easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(http->easy, CURLOPT_ERRORBUFFER, http->detail);
    curl_easy_setopt(http->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(http->easy, CURLOPT_WRITEDATA, http);
    curl_easy_setopt(http->easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
    curl_easy_setopt(http->easy, CURLOPT_OPENSOCKETDATA, http);
    curl_easy_setopt(http->easy, CURLOPT_CLOSESOCKETFUNCTION, on_close);
    curl_easy_setopt(http->easy, CURLOPT_CLOSESOCKETDATA, http);
    curl_easy_setopt(http->easy, CURLOPT_TCP_NODELAY, 1L);
    if (is_unix(http->address) && !options->any_uid) {
        curl_easy_setopt(http->easy, CURLOPT_PREREQFUNCTION, on_connected);
        curl_easy_setopt(http->easy, CURLOPT_PREREQDATA, http);
    }
    int made = 0;
    if (is_unix(http->address)) {
        curl_easy_setopt(http->easy, CURLOPT_UNIX_SOCKET_PATH, http->address + strlen(UNIX));
        made = asprintf(&http->base, "http://localhost");
    } else {
        made = asprintf(&http->base, "%s%s", is_tls(http->address) ? "" : "http://", http->address);
    }
    if (made < 0) http->base = NULL;
    return http->base ? add_headers(http, options->token) : TPV_ERR_NO_MEMORY;
}

/* The files of TLS are read once, here. */
static tpv_status_t configure_tls(tpv_http_t *http, const tpv_source_options_t *options) {
    tpv_tls_files_t files;
    tpv_status_t status = tpv_tls_files_read(options->tls_ca, options->tls_cert, options->tls_key, &files);
    if (status == TPV_OK && is_tls(http->address)) status = tpv_http_tls_configure(http->easy, &files);
    tpv_tls_files_clear(&files);
    return status;
}

/* What is most likely wrong with what is no address. */
static tpv_status_t bad_address(const char *address) {
    const char *host = is_tls(address) ? address + strlen(TLS) : address;
    const char *hint =
        strstr(host, "://")            ? ": leave out what stands before the host"
        : *host == '/' || *host == '.' ? ": a socket's path is written unix:PATH"
        : is_unix(host)                ? ""
        : !strchr(host, ':')           ? ": the port is missing"
        : strspn(host, "0123456789abcdefABCDEF:.") == strlen(host) && strchr(host, ':') != strrchr(host, ':')
            ? ": an IPv6 host is written in brackets"
            : "";
    return tpv_error_set(TPV_ERR_ARGUMENT,
                         "\"%s\" is not an address%s: expected unix:PATH (at most 107 bytes), HOST:PORT or "
                         "https://HOST:PORT",
                         address, hint);
}

static tpv_status_t judge(const char *address, const tpv_source_options_t *options) {
    bool good = is_unix(address)  ? strlen(address) > strlen(UNIX) && strlen(address) <= strlen(UNIX) + 107
                : is_tls(address) ? is_host_port(address + strlen(TLS))
                                  : is_host_port(address);
    if (!good) return bad_address(address);
    if (options->token && options->token[strcspn(options->token, "\r\n")])
        return tpv_error_set(TPV_ERR_ARGUMENT, "the token must be one line");
    if (!is_tls(address) && (options->tls_ca || options->tls_cert || options->tls_key))
        return tpv_error_set(TPV_ERR_ARGUMENT, "\"%s\" is an address without TLS: expected https://HOST:PORT with %s",
                             address,
                             options->tls_ca     ? "a certificate authority"
                             : options->tls_cert ? "a certificate"
                                                 : "a private key");
    return TPV_OK;
}

tpv_status_t tpv_http_open(const char *address, const tpv_source_options_t *options, tpv_http_t **http) {
    static const tpv_source_options_t none = {0};
    if (!options) options = &none;
    TPV_TRY(judge(address, options));
    pthread_once(&curl_once, curl_start);
    tpv_http_t *h = calloc(1, sizeof *h);
    if (!h) goto fail;
    h->descriptor = -1;
    h->address = strdup(address);
    h->easy = curl_easy_init();
    h->multi = curl_multi_init();
    if (!h->address || !h->easy || !h->multi || configure(h, options) != TPV_OK) goto fail;
    tpv_status_t status = configure_tls(h, options);
    if (status != TPV_OK) {
        tpv_http_close(h);
        return status;
    }
    *http = h;
    return TPV_OK;

fail:
    tpv_http_close(h);
    return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a connection to %s", address);
}

void tpv_http_close(tpv_http_t *http) {
    if (!http) return;
    if (http->running) curl_multi_remove_handle(http->multi, http->easy);
    /* The multi handle owns the connection, whose closing calls back through the easy handle's options. */
    if (http->multi) curl_multi_cleanup(http->multi);
    if (http->easy) curl_easy_cleanup(http->easy);
    curl_slist_free_all(http->headers);
    free(http->base);
    free(http->address);
    free(http->body);
    free(http);
}

const char *tpv_http_address(const tpv_http_t *http) {
    return http->address;
}

int tpv_http_descriptor(const tpv_http_t *http) {
    return http->descriptor;
}

bool tpv_http_told(const tpv_http_t *http) {
    return http->told;
}

const char *tpv_http_body(const tpv_http_t *http, size_t *length) {
    if (length) *length = http->length;
    return http->body ? http->body : "";
}

tpv_status_t tpv_http_start(tpv_http_t *http, const char *method, const char *path, const char *body) {
    char *url = NULL;
    http->length = 0;
    http->no_socket = 0;
    http->too_long = http->strange = http->no_memory = http->told = false;
    if (asprintf(&url, "%s%s", http->base, path) < 0)
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a request to %s", http->address);
    http->detail[0] = '\0';
    curl_easy_setopt(http->easy, CURLOPT_URL, url);
    curl_easy_setopt(http->easy, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(http->easy, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(http->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)(body ? strlen(body) : 0));
    if (!body) curl_easy_setopt(http->easy, CURLOPT_HTTPGET, 1L);
    free(url);
    CURLMcode code = curl_multi_add_handle(http->multi, http->easy);
    if (code != CURLM_OK)
        return tpv_error_set(TPV_ERR_INTERNAL, "request to %s: %s", http->address, curl_multi_strerror(code));
    http->running = true;
    return TPV_OK;
}

void tpv_http_cancel(tpv_http_t *http) {
    if (!http->running) return;
    /* curl closes a connection whose answer has not been read to its end. */
    curl_multi_remove_handle(http->multi, http->easy);
    http->running = false;
}

/* {"error":{"status":"not_found","message":"…"}} */
static tpv_status_t told_error(const tpv_http_t *http, long code) {
    tpv_status_t status;
    json_t *root = json_loadb(http->body ? http->body : "", http->length, 0, NULL);
    const char *name = NULL, *message = NULL;
    if (json_unpack(root, "{s:{s:s,s:s}}", "error", "status", &name, "message", &message) == 0)
        status = tpv_error_set(tpv_status_from_name(name), "source %s: %s", http->address, message);
    else
        status = tpv_error_set(TPV_ERR_PROTOCOL, "source %s answered HTTP %ld without a reason: is it tpviewd?",
                               http->address, code);
    json_decref(root);
    return status;
}

/* Whether it was the connection's first request: what listens there may not be what we take it for. */
static bool is_new(const tpv_http_t *http) {
    long made = 0;
    return curl_easy_getinfo(http->easy, CURLINFO_NUM_CONNECTS, &made) == CURLE_OK && made > 0;
}

/* curl speaks of "localhost port 80" for a Unix socket: what went wrong is said here, with what to do about it. */
static tpv_status_t connection_error(const tpv_http_t *http, CURLcode result) {
    const char *detail = *http->detail ? http->detail : curl_easy_strerror(result);
    bool local = is_unix(http->address), tls = is_tls(http->address);
    tpv_status_t status;
    long number = 0;
    curl_easy_getinfo(http->easy, CURLINFO_OS_ERRNO, &number);
    if (http->strange)
        return tpv_error_set(TPV_ERR_PERMISSION,
                             "source %s: user %u listens there, neither root nor this user (%u); --any-uid (any_uid) "
                             "trusts it all the same",
                             http->address, (unsigned)http->stranger, (unsigned)geteuid());
    if (http->no_memory || result == CURLE_OUT_OF_MEMORY)
        return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the answer of source %s", http->address);
    if (result == CURLE_COULDNT_CONNECT && (http->no_socket == EMFILE || http->no_socket == ENFILE))
        return tpv_error_set_errno(TPV_ERR_SYSTEM, http->no_socket, "cannot make a connection to source %s",
                                   http->address);
    if (result == CURLE_COULDNT_RESOLVE_HOST)
        return tpv_error_set(TPV_ERR_PEER, "source %s: there is no host of that name", http->address);
    if (tls && tpv_http_tls_error(http->easy, http->address, result, detail, &status)) return status;
    if (result != CURLE_COULDNT_CONNECT)
        return tpv_error_set(
            TPV_ERR_PEER, "source %s: the connection was lost: %s%s", http->address, curl_easy_strerror(result),
            !local && !tls && is_new(http) ? "; a tpviewd with --tls-cert wants https:// before the host" : "");
    if (local && number == ENOENT)
        return tpv_error_set(TPV_ERR_PEER,
                             "source %s: there is no such socket: is tpviewd running, and with --unix %s?",
                             http->address, http->address + strlen(UNIX));
    if (number == EACCES || number == EPERM)
        return tpv_error_set(TPV_ERR_PERMISSION, "source %s: no permission to connect%s", http->address,
                             local ? ": the socket is for the user that runs tpviewd" : "");
    if (number == ECONNREFUSED)
        return tpv_error_set(TPV_ERR_PEER, "source %s: nobody listens there: is tpviewd running%s%s?", http->address,
                             local ? "" : ", and with --listen ", local ? "" : http->address + (tls ? strlen(TLS) : 0));
    if (number == 0) return tpv_error_set(TPV_ERR_PEER, "source %s: cannot connect", http->address);
    return tpv_error_set_errno(TPV_ERR_PEER, (int)number, "source %s: cannot connect", http->address);
}

tpv_status_t tpv_http_advance(tpv_http_t *http, bool *done) {
    int running = 0, queued = 0;
    *done = false;
    CURLMcode failed = curl_multi_perform(http->multi, &running);
    if (failed != CURLM_OK)
        return tpv_error_set(TPV_ERR_INTERNAL, "request to %s: %s", http->address, curl_multi_strerror(failed));
    CURLMsg *message = curl_multi_info_read(http->multi, &queued);
    if (!message || message->msg != CURLMSG_DONE) return TPV_OK;
    CURLcode result = message->data.result;
    curl_multi_remove_handle(http->multi, http->easy);
    http->running = false;
    *done = true;
    if (http->too_long)
        return tpv_error_set(TPV_ERR_PROTOCOL, "source %s: its answer is longer than %u bytes", http->address,
                             TPV_HTTP_MAX_RESPONSE);
    if (result != CURLE_OK) return connection_error(http, result);
    long code = 0;
    curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &code);
    http->told = code < 200 || code > 299;
    return http->told ? told_error(http, code) : TPV_OK;
}

tpv_status_t tpv_http_call(tpv_http_t *http, const char *method, const char *path, const char *body, int64_t deadline) {
    TPV_TRY(tpv_http_start(http, method, path, body));
    for (;;) {
        bool done = false;
        tpv_status_t status = tpv_http_advance(http, &done);
        if (status != TPV_OK || done) return status;
        int64_t left = tpv_deadline_left(deadline);
        if (left == 0) {
            tpv_http_cancel(http);
            return tpv_error_set(TPV_ERR_DEADLINE, "deadline passed while waiting for source %s to answer %s %s",
                                 http->address, method, path);
        }
        int64_t ms = left / TPV_NS_PER_MS + 1;
        curl_multi_poll(http->multi, NULL, 0, ms < 1000 ? (int)ms : 1000, NULL);
    }
}
