#include "service/http_server.h"

#include <jansson.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "service/connections.h"
#include "service/http_access.h"
#include "service/http_answer.h"
#include "service/listen.h"
#include "service/request.h"

#define HTTP_THREADS 4
#define MOST_WAITING 768u              /* connections whose requests are not served, half as many for each address */
#define SLACK 256u                     /* connections that are on their way out */
#define DESCRIPTORS_OF_A_CONNECTION 2u /* a served one has comms as well */
#define OTHER_DESCRIPTORS 128u

typedef struct {
    struct MHD_Daemon *daemon;
    tpv_http_server_t *server;
    tpv_connections_t *connections;
    bool is_tcp;
    int quiesced; /* its socket once it listens no more, closed when no thread of the daemon can use it; else -1 */
} listener_t;

struct tpv_http_server {
    tpv_http_options_t options;
    listener_t listeners[1 + TPV_LISTEN_MOST];
    unsigned listener_count;
    tpv_http_access_t access; /* on TCP */
    char addresses[512];
    char unix_path[sizeof((struct sockaddr_un *)NULL)->sun_path];
    int unix_lock;       /* while unix_path is not empty */
    atomic_uint pending; /* exchanges; relaxed: a count to look at */
};

struct tpv_exchange {
    listener_t *listener;
    struct MHD_Connection *connection;
    char *method, *path;
    tpv_body_t body;
    size_t received; /* of the body, also what was not kept */
    bool seen, too_long, resumed, answered;
    tpv_http_right_t right;
    void *user;
};

static tpv_connection_t *connection_of(struct MHD_Connection *connection) {
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* ---- answers ---- */

static unsigned code_of(const tpv_exchange_t *exchange, tpv_status_t status) {
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
        return exchange->right.lacks_token ? MHD_HTTP_UNAUTHORIZED : MHD_HTTP_FORBIDDEN;
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

static void queue(tpv_exchange_t *exchange, unsigned code, const char *type, struct MHD_Response *response,
                  size_t bytes) {
    if (!response) return; /* the connection is closed without an answer */
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (code == MHD_HTTP_UNAUTHORIZED) MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    tpv_connection_transfer(connection_of(exchange->connection), bytes);
    exchange->answered = MHD_queue_response(exchange->connection, code, response) == MHD_YES;
    MHD_destroy_response(response);
}

void tpv_exchange_answer(tpv_exchange_t *exchange, const char *type, char *text) {
    struct MHD_Response *response = NULL;
    size_t bytes = strlen(text);
    if (tpv_http_answer_make(&exchange->listener->server->options.handler.bodies, text, &response) == TPV_OK)
        queue(exchange, MHD_HTTP_OK, type, response, bytes);
    else
        tpv_exchange_fail(exchange, TPV_ERR_NO_MEMORY, tpv_error_message());
}

void tpv_exchange_answer_kept(tpv_exchange_t *exchange, const char *type, const char *text, size_t bytes,
                              void (*release)(void *keeper), void *keeper) {
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback_cls(bytes, (void *)(uintptr_t)text, release, keeper);
    if (!response) release(keeper);
    queue(exchange, MHD_HTTP_OK, type, response, bytes);
}

void tpv_exchange_fail(tpv_exchange_t *exchange, tpv_status_t status, const char *message) {
    json_t *root = json_pack("{s:{s:s,s:s}}", "error", "status", tpv_status_name(status), "message", message);
    /* A message may quote bytes that are not UTF-8. */
    if (!root)
        root = json_pack("{s:{s:s,s:s}}", "error", "status", tpv_status_name(status), "message",
                         "(the reason cannot be shown: it is not UTF-8)");
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!text) return; /* as in queue */
    size_t bytes = strlen(text);
    queue(exchange, code_of(exchange, status), "application/json",
          MHD_create_response_from_buffer(bytes, text, MHD_RESPMEM_MUST_FREE), bytes);
}

/* ---- the exchange as the handler sees it ---- */

const char *tpv_exchange_method(const tpv_exchange_t *exchange) {
    return exchange->method;
}

const char *tpv_exchange_path(const tpv_exchange_t *exchange) {
    return exchange->path;
}

const char *tpv_exchange_body(const tpv_exchange_t *exchange, size_t *length) {
    *length = exchange->body.length;
    return exchange->body.bytes ? exchange->body.bytes : "";
}

void tpv_exchange_drop_body(tpv_exchange_t *exchange) {
    tpv_body_clear(&exchange->body, &exchange->listener->server->options.handler.bodies);
}

bool tpv_exchange_is_admin(const tpv_exchange_t *exchange) {
    return exchange->right.is_admin;
}

const struct sockaddr *tpv_exchange_peer(const tpv_exchange_t *exchange) {
    if (!exchange->listener->is_tcp) return NULL;
    return MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr;
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
    return tpv_connection_attach(connection_of(exchange->connection), attached);
}

void tpv_exchange_suspend(tpv_exchange_t *exchange) {
    MHD_suspend_connection(exchange->connection);
}

void tpv_exchange_resume(tpv_exchange_t *exchange) {
    exchange->resumed = true; /* the HTTP thread looks only after MHD woke it */
    MHD_resume_connection(exchange->connection);
}

/* ---- libmicrohttpd's callbacks ---- */

static tpv_exchange_t *exchange_create(listener_t *listener, struct MHD_Connection *connection, const char *url,
                                       const char *method) {
    tpv_exchange_t *exchange = calloc(1, sizeof *exchange);
    if (!exchange) return NULL;
    atomic_fetch_add_explicit(&listener->server->pending, 1, memory_order_relaxed);
    exchange->listener = listener;
    exchange->connection = connection;
    exchange->method = strdup(method);
    exchange->path = strdup(url);
    if (exchange->method && exchange->path)
        exchange->right = listener->is_tcp ? tpv_http_access_judge(&listener->server->access, connection, url)
                                           : (tpv_http_right_t){.is_admin = true};
    return exchange;
}

/* What cannot be kept is read to its end all the same, so that the client reads our answer; but not for ever. */
static bool exchange_take(tpv_exchange_t *exchange, const char *data, size_t bytes) {
    const tpv_body_account_t *account = &exchange->listener->server->options.handler.bodies;
    exchange->received += bytes;
    tpv_connection_transfer(connection_of(exchange->connection), exchange->received);
    if (!exchange->too_long && !exchange->right.refusal)
        exchange->too_long = !tpv_body_append(&exchange->body, account, data, bytes, TPV_REQUEST_MAX);
    if (exchange->too_long) tpv_body_clear(&exchange->body, account);
    return exchange->received <= 2 * (size_t)TPV_REQUEST_MAX;
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_bytes, void **context) {
    (void)version;
    listener_t *listener = user;
    tpv_exchange_t *exchange = *context;
    if (!exchange) {
        if (!connection_of(connection)) return MHD_NO;
        tpv_connection_transfer(connection_of(connection), 0);
        *context = exchange = exchange_create(listener, connection, url, method);
        return exchange && exchange->method && exchange->path ? MHD_YES : MHD_NO;
    }
    if (*data_bytes > 0) {
        bool more = exchange_take(exchange, data, *data_bytes);
        *data_bytes = 0;
        return more ? MHD_YES : MHD_NO;
    }
    if (!exchange->answered) tpv_connection_serve(connection_of(connection));
    const tpv_http_handler_t *handler = &listener->server->options.handler;
    if (exchange->right.refusal)
        tpv_exchange_fail(exchange, TPV_ERR_PERMISSION, exchange->right.refusal);
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
    (void)code;
    listener_t *listener = user;
    tpv_exchange_t *exchange = *context;
    if (!exchange) return;
    atomic_fetch_sub_explicit(&listener->server->pending, 1, memory_order_relaxed);
    tpv_exchange_drop_body(exchange);
    tpv_connection_wait(connection_of(connection));
    free(exchange->method);
    free(exchange->path);
    free(exchange);
    *context = NULL;
}

/* A client whose host has gone without a word is noticed after a minute, also while its request is served. */
static void keep_alive(int descriptor) {
    int on = 1, idle_s = 30, period_s = 10, probes = 3;
    unsigned unacknowledged_ms = 60000;
    setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, &period_s, sizeof period_s);
    setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged_ms, sizeof unacknowledged_ms);
}

static void on_connection(void *user, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    listener_t *listener = user;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        int descriptor = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        if (listener->is_tcp) keep_alive(descriptor);
        *socket_context =
            tpv_connection_add(listener->connections, descriptor,
                               MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
        return;
    }
    const tpv_http_handler_t *handler = &listener->server->options.handler;
    void *attached = tpv_connection_remove(*socket_context);
    if (attached) handler->closed(handler->user, attached);
    *socket_context = NULL;
}

/* ---- listening ---- */

static void note_address(tpv_http_server_t *server, int descriptor) {
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    char host[NI_MAXHOST], port[NI_MAXSERV], text[NI_MAXHOST + NI_MAXSERV + 16];
    if (getsockname(descriptor, (struct sockaddr *)&address, &bytes) != 0) return;
    if (address.ss_family == AF_UNIX) {
        snprintf(text, sizeof text, "unix:%s", server->unix_path);
    } else {
        if (getnameinfo((struct sockaddr *)&address, bytes, host, sizeof host, port, sizeof port,
                        NI_NUMERICHOST | NI_NUMERICSERV) != 0)
            return;
        snprintf(text, sizeof text, address.ss_family == AF_INET6 ? "%s[%s]:%s" : "%s%s:%s",
                 server->options.tls ? "https://" : "", host, port);
    }
    size_t length = strlen(server->addresses);
    snprintf(server->addresses + length, sizeof server->addresses - length, "%s%s", length ? " " : "", text);
}

/* As many as may be served and as may wait, if the process may have so many descriptors. */
static unsigned most_connections(const tpv_http_options_t *options) {
    unsigned most = options->most_served + MOST_WAITING;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return most;
    rlim_t room = limit.rlim_cur > 2 * OTHER_DESCRIPTORS ? limit.rlim_cur - OTHER_DESCRIPTORS : OTHER_DESCRIPTORS;
    room /= DESCRIPTORS_OF_A_CONNECTION;
    return room < most ? (unsigned)room : most;
}

#define TLS_OPTIONS 5

static void tls_options(const tpv_tls_files_t *tls, struct MHD_OptionItem options[TLS_OPTIONS]) {
    size_t count = 0;
    if (tls) {
        options[count++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, tls->cert};
        options[count++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, tls->key};
        options[count++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_PRIORITIES, 0,
                                                   (void *)"NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"};
        if (tls->ca) options[count++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_TRUST, 0, tls->ca};
    }
    options[count] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
}

static tpv_status_t add_listener(tpv_http_server_t *server, int descriptor, bool is_tcp) {
    listener_t *listener = &server->listeners[server->listener_count];
    listener->server = server;
    listener->is_tcp = is_tcp;
    listener->quiesced = -1;
    tpv_connections_options_t options = {.most = most_connections(&server->options),
                                         .idle_s = server->options.idle_s,
                                         .is_needed = server->options.handler.needed};
    options.most_per_address = options.most < MOST_WAITING ? options.most / 2 : MOST_WAITING / 2;
    tpv_status_t status = tpv_connections_open(&options, &listener->connections);
    if (status != TPV_OK) {
        close(descriptor);
        return status;
    }
    const tpv_tls_files_t *tls = is_tcp ? server->options.tls : NULL;
    struct MHD_OptionItem secured[TLS_OPTIONS];
    tls_options(tls, secured);
    /* Not epoll: there, MHD_quiesce_daemon and the daemon's threads may both take the listening socket out of the set,
     * and the second one aborts the process: "Failed to remove listen FD from epoll set", seen with libmicrohttpd
     * 0.9.75. */
    unsigned flags = MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC;
    listener->daemon = MHD_start_daemon(
        flags | (tls ? MHD_USE_TLS : 0), 0, NULL, NULL, on_request, listener, MHD_OPTION_LISTEN_SOCKET, descriptor,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)HTTP_THREADS, MHD_OPTION_CONNECTION_LIMIT, options.most + SLACK,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, listener, MHD_OPTION_NOTIFY_CONNECTION, on_connection, listener,
        MHD_OPTION_ARRAY, secured, MHD_OPTION_END);
    if (!listener->daemon) {
        tpv_connections_close(listener->connections);
        close(descriptor);
        return tpv_error_set(TPV_ERR_SYSTEM, "cannot start the HTTP server%s", tls ? " with TLS" : "");
    }
    server->listener_count++;
    note_address(server, descriptor);
    return TPV_OK;
}

tpv_status_t tpv_http_server_open(const tpv_http_options_t *options, tpv_http_server_t **server) {
    tpv_http_server_t *s = calloc(1, sizeof *s);
    if (!s) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for the HTTP server");
    s->options = *options;
    bool asks_certificate = options->tls && options->tls->ca;
    tpv_http_access_init(&s->access, options->token, options->admin_token, asks_certificate);
    tpv_status_t status = TPV_OK;
    int descriptor = -1;
    if (options->unix_path) {
        status = tpv_listen_unix(options->unix_path, &descriptor, &s->unix_lock);
        if (status == TPV_OK) {
            memcpy(s->unix_path, options->unix_path, strlen(options->unix_path) + 1);
            status = add_listener(s, descriptor, false);
        }
    }
    if (status == TPV_OK && options->listen) {
        int descriptors[TPV_LISTEN_MOST];
        unsigned count = 0;
        status = tpv_listen_tcp(options->listen, options->may_be_open, descriptors, &count);
        for (unsigned i = 0; i < count; i++) {
            if (status == TPV_OK)
                status = add_listener(s, descriptors[i], true);
            else
                close(descriptors[i]);
        }
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
        if (descriptor == MHD_INVALID_SOCKET) continue;
        shutdown(descriptor, SHUT_RDWR); /* who comes now is refused, and not left waiting */
        server->listeners[i].quiesced = descriptor;
    }
    if (*server->unix_path) tpv_listen_unlock(server->unix_path, server->unix_lock);
    *server->unix_path = '\0';
}

void tpv_http_server_close(tpv_http_server_t *server) {
    if (!server) return;
    tpv_http_server_quiesce(server);
    for (unsigned i = 0; i < server->listener_count; i++) {
        MHD_stop_daemon(server->listeners[i].daemon);
        if (server->listeners[i].quiesced >= 0) close(server->listeners[i].quiesced);
        tpv_connections_close(server->listeners[i].connections);
    }
    free(server);
}
