#include "service/http_server.h"

#include <jansson.h>
#include <microhttpd.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "service/listen.h"
#include "service/request.h"

#define HTTP_THREADS 4
#define MOST_CONNECTIONS 1024
#define MOST_UPLOAD_BYTES (256u << 20) /* of all bodies that are being read */

typedef struct {
    struct MHD_Daemon *daemon;
    tpv_http_server_t *server;
    bool is_tcp, wants_token;
} listener_t;

struct tpv_http_server {
    tpv_http_options_t options;
    listener_t listeners[2];
    unsigned listener_count;
    unsigned char token_digest[SHA256_DIGEST_LENGTH];
    char addresses[512];
    char unix_path[sizeof((struct sockaddr_un *)NULL)->sun_path];
    int unix_lock;              /* while unix_path is not empty */
    atomic_uint pending;        /* exchanges; relaxed: a count to look at */
    atomic_size_t upload_bytes; /* relaxed: a bound, not a balance to the byte at each moment */
};

struct tpv_exchange {
    listener_t *listener;
    struct MHD_Connection *connection;
    char *method, *path;
    char *body;
    size_t length, reserved;
    bool seen, authorised, too_long, resumed, answered;
    void *user;
};

/* ---- answers ---- */

static unsigned code_of(tpv_status_t status) {
    switch (status) {
    case TPV_OK:
        return MHD_HTTP_OK;
    case TPV_ERR_NOT_FOUND:
        return MHD_HTTP_NOT_FOUND;
    case TPV_ERR_ARGUMENT:
    case TPV_ERR_FORMAT:
    case TPV_ERR_PLAN:
    case TPV_ERR_UNSUPPORTED:
        return MHD_HTTP_BAD_REQUEST;
    case TPV_ERR_PERMISSION:
        return MHD_HTTP_UNAUTHORIZED;
    case TPV_ERR_REFUSED:
    case TPV_ERR_NO_MEMORY:
    case TPV_ERR_NO_SPACE:
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    case TPV_ERR_STALE:
        return MHD_HTTP_CONFLICT;
    case TPV_ERR_DEADLINE:
        return MHD_HTTP_GATEWAY_TIMEOUT;
    case TPV_ERR_PEER:
        return MHD_HTTP_BAD_GATEWAY;
    default:
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
}

static void queue(tpv_exchange_t *exchange, unsigned code, const char *type, char *text) {
    struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        free(text);
        return; /* the connection is closed without an answer */
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (code == MHD_HTTP_UNAUTHORIZED) MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    exchange->answered = MHD_queue_response(exchange->connection, code, response) == MHD_YES;
    MHD_destroy_response(response);
}

void tpv_exchange_answer(tpv_exchange_t *exchange, const char *type, char *text) {
    queue(exchange, MHD_HTTP_OK, type, text);
}

void tpv_exchange_fail(tpv_exchange_t *exchange, tpv_status_t status, const char *message) {
    json_t *root = json_pack("{s:{s:s,s:s}}", "error", "status", tpv_status_name(status), "message", message);
    /* A message may quote bytes that are not UTF-8. */
    if (!root)
        root = json_pack("{s:{s:s,s:s}}", "error", "status", tpv_status_name(status), "message",
                         "(the reason cannot be shown: it is not UTF-8)");
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (text) queue(exchange, code_of(status), "application/json", text);
}

/* ---- the exchange as the handler sees it ---- */

const char *tpv_exchange_method(const tpv_exchange_t *exchange) {
    return exchange->method;
}

const char *tpv_exchange_path(const tpv_exchange_t *exchange) {
    return exchange->path;
}

const char *tpv_exchange_body(const tpv_exchange_t *exchange, size_t *length) {
    *length = exchange->length;
    return exchange->body ? exchange->body : "";
}

bool tpv_exchange_trusted(const tpv_exchange_t *exchange) {
    return !exchange->listener->is_tcp || exchange->listener->wants_token;
}

int tpv_exchange_descriptor(const tpv_exchange_t *exchange) {
    return MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

void tpv_exchange_set_user(tpv_exchange_t *exchange, void *user) {
    exchange->user = user;
}

void *tpv_exchange_user(const tpv_exchange_t *exchange) {
    return exchange->user;
}

void *tpv_exchange_attach(tpv_exchange_t *exchange, void *attached) {
    void **place = MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    void *before = *place;
    *place = attached;
    return before;
}

void tpv_exchange_suspend(tpv_exchange_t *exchange) {
    MHD_suspend_connection(exchange->connection);
}

void tpv_exchange_resume(tpv_exchange_t *exchange) {
    exchange->resumed = true; /* the HTTP thread looks only after MHD woke it */
    MHD_resume_connection(exchange->connection);
}

/* ---- libmicrohttpd's callbacks ---- */

/* Compares digests: neither the token's length nor its first wrong byte shows in the time it takes. */
static bool token_matches(const tpv_http_server_t *server, const char *header) {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    static const char scheme[] = "Bearer ";
    const char *token = header && strncmp(header, scheme, sizeof scheme - 1) == 0 ? header + sizeof scheme - 1 : "";
    SHA256((const unsigned char *)token, strlen(token), digest);
    return CRYPTO_memcmp(digest, server->token_digest, sizeof digest) == 0;
}

static tpv_exchange_t *exchange_create(listener_t *listener, struct MHD_Connection *connection, const char *url,
                                       const char *method) {
    tpv_exchange_t *exchange = calloc(1, sizeof *exchange);
    if (!exchange) return NULL;
    atomic_fetch_add_explicit(&listener->server->pending, 1, memory_order_relaxed);
    exchange->listener = listener;
    exchange->connection = connection;
    exchange->method = strdup(method);
    exchange->path = strdup(url);
    const char *header = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    exchange->authorised =
        !listener->wants_token || strcmp(url, "/healthz") == 0 || token_matches(listener->server, header);
    return exchange;
}

static void exchange_take(tpv_exchange_t *exchange, const char *data, size_t bytes) {
    tpv_http_server_t *server = exchange->listener->server;
    if (exchange->too_long || !exchange->authorised) return;
    size_t needed = exchange->length + bytes + 1;
    if (needed > exchange->reserved) {
        size_t reserve = 2 * needed;
        size_t grow = reserve - exchange->reserved;
        size_t before = atomic_fetch_add_explicit(&server->upload_bytes, grow, memory_order_relaxed);
        char *grown =
            needed > TPV_REQUEST_MAX || before + grow > MOST_UPLOAD_BYTES ? NULL : realloc(exchange->body, reserve);
        if (!grown) {
            atomic_fetch_sub_explicit(&server->upload_bytes, grow, memory_order_relaxed);
            exchange->too_long = true;
            return;
        }
        exchange->body = grown;
        exchange->reserved = reserve;
    }
    memcpy(exchange->body + exchange->length, data, bytes);
    exchange->length += bytes;
    exchange->body[exchange->length] = '\0';
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_bytes, void **context) {
    (void)version;
    listener_t *listener = user;
    tpv_exchange_t *exchange = *context;
    if (!exchange) {
        *context = exchange = exchange_create(listener, connection, url, method);
        return exchange && exchange->method && exchange->path ? MHD_YES : MHD_NO;
    }
    if (*data_bytes > 0) {
        exchange_take(exchange, data, *data_bytes);
        *data_bytes = 0;
        return MHD_YES;
    }
    const tpv_http_handler_t *handler = &listener->server->options.handler;
    if (!exchange->authorised)
        tpv_exchange_fail(exchange, TPV_ERR_PERMISSION, "a bearer token is needed, and this is not the right one");
    else if (exchange->too_long)
        tpv_exchange_fail(exchange, TPV_ERR_NO_MEMORY, "the request is too long, or too many are being read");
    else if (exchange->resumed)
        handler->resumed(handler->user, exchange);
    else if (!exchange->seen) {
        exchange->seen = true;
        handler->handle(handler->user, exchange);
        return MHD_YES; /* answered, or suspended and perhaps resumed already by another thread */
    }
    return exchange->answered ? MHD_YES : MHD_NO;
}

static void on_completed(void *user, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code) {
    (void)connection;
    (void)code;
    listener_t *listener = user;
    tpv_exchange_t *exchange = *context;
    if (!exchange) return;
    atomic_fetch_sub_explicit(&listener->server->upload_bytes, exchange->reserved, memory_order_relaxed);
    atomic_fetch_sub_explicit(&listener->server->pending, 1, memory_order_relaxed);
    free(exchange->body);
    free(exchange->method);
    free(exchange->path);
    free(exchange);
    *context = NULL;
}

static void on_connection(void *user, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    (void)connection;
    listener_t *listener = user;
    /* The socket's context is a place of ours, so that a handler can exchange what is in it. */
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        *socket_context = calloc(1, sizeof(void *));
        return;
    }
    void **place = *socket_context;
    if (!place) return;
    const tpv_http_handler_t *handler = &listener->server->options.handler;
    if (*place) handler->closed(handler->user, *place);
    free(place);
    *socket_context = NULL;
}

/* ---- listening ---- */

static void note_address(tpv_http_server_t *server, int descriptor) {
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    char host[NI_MAXHOST], port[NI_MAXSERV], text[NI_MAXHOST + NI_MAXSERV + 8];
    if (getsockname(descriptor, (struct sockaddr *)&address, &bytes) != 0) return;
    if (address.ss_family == AF_UNIX) {
        snprintf(text, sizeof text, "unix:%s", server->unix_path);
    } else {
        if (getnameinfo((struct sockaddr *)&address, bytes, host, sizeof host, port, sizeof port,
                        NI_NUMERICHOST | NI_NUMERICSERV) != 0)
            return;
        snprintf(text, sizeof text, address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    }
    size_t length = strlen(server->addresses);
    snprintf(server->addresses + length, sizeof server->addresses - length, "%s%s", length ? " " : "", text);
}

static tpv_status_t add_listener(tpv_http_server_t *server, int descriptor, bool is_tcp, bool wants_token) {
    listener_t *listener = &server->listeners[server->listener_count];
    listener->server = server;
    listener->is_tcp = is_tcp;
    listener->wants_token = wants_token;
    listener->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, NULL, NULL, on_request, listener,
        MHD_OPTION_LISTEN_SOCKET, descriptor, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)HTTP_THREADS,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)MOST_CONNECTIONS, MHD_OPTION_NOTIFY_COMPLETED, on_completed, listener,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, listener, MHD_OPTION_END);
    if (!listener->daemon) {
        close(descriptor);
        return tpv_error_set(TPV_ERR_SYSTEM, "cannot start the HTTP server");
    }
    server->listener_count++;
    note_address(server, descriptor);
    return TPV_OK;
}

tpv_status_t tpv_http_server_open(const tpv_http_options_t *options, tpv_http_server_t **server) {
    tpv_http_server_t *s = calloc(1, sizeof *s);
    if (!s) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the HTTP server");
    s->options = *options;
    if (options->token) SHA256((const unsigned char *)options->token, strlen(options->token), s->token_digest);
    tpv_status_t status = TPV_OK;
    int descriptor = -1;
    if (options->unix_path) {
        status = tpv_listen_unix(options->unix_path, &descriptor, &s->unix_lock);
        if (status == TPV_OK) {
            memcpy(s->unix_path, options->unix_path, strlen(options->unix_path) + 1);
            status = add_listener(s, descriptor, false, false);
        }
    }
    if (status == TPV_OK && options->listen) {
        status = tpv_listen_tcp(options->listen, options->token || options->insecure, &descriptor);
        if (status == TPV_OK) status = add_listener(s, descriptor, true, options->token != NULL);
    }
    if (status != TPV_OK) {
        tpv_http_server_close(s);
        return status;
    }
    *server = s;
    return TPV_OK;
}

const char *tpv_http_server_addresses(const tpv_http_server_t *server) {
    return server->addresses;
}

unsigned tpv_http_server_pending(const tpv_http_server_t *server) {
    return atomic_load_explicit(&server->pending, memory_order_relaxed);
}

void tpv_http_server_quiesce(tpv_http_server_t *server) {
    for (unsigned i = 0; i < server->listener_count; i++) {
        int descriptor = MHD_quiesce_daemon(server->listeners[i].daemon);
        if (descriptor != MHD_INVALID_SOCKET) close(descriptor);
    }
    if (*server->unix_path) tpv_listen_unlock(server->unix_path, server->unix_lock);
    *server->unix_path = '\0';
}

void tpv_http_server_close(tpv_http_server_t *server) {
    if (!server) return;
    tpv_http_server_quiesce(server);
    for (unsigned i = 0; i < server->listener_count; i++)
        MHD_stop_daemon(server->listeners[i].daemon);
    free(server);
}
