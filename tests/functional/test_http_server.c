/* The HTTP server ends at any time, also in the middle of what its clients send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/child.h"
#include "service/http_server.h"

/* Enough for its threads to be met at every step: what they race for was met in one of some hundred. */
#define ROUNDS 600
#define CLIENTS 4
#define LIMIT_S 600

static struct sockaddr_in address;
static atomic_bool ended;
static atomic_uint answered;

static void handle(void *user, tpv_exchange_t *exchange) {
    (void)user;
    tpv_exchange_answer(exchange, "text/plain", strdup("ok"));
}

static void closed(void *user, void *attached) {
    (void)user, (void)attached;
}

static bool needed(const void *attached) {
    (void)attached;
    return false;
}

static void *ask(void *argument) {
    static const char request[] = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    (void)argument;
    char answer[1024];
    while (!atomic_load(&ended)) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
            while (!atomic_load(&ended) && send(fd, request, sizeof request - 1, MSG_NOSIGNAL) > 0 &&
                   recv(fd, answer, sizeof answer, 0) > 0)
                atomic_fetch_add(&answered, 1);
        }
        close(fd);
    }
    return NULL;
}

static int serve_and_end(void *argument) {
    (void)argument;
    const tpv_http_options_t options = {.listen = "127.0.0.1:0",
                                        .idle_s = LIMIT_S,
                                        .most_served = 8,
                                        .handler = {.handle = handle, .closed = closed, .needed = needed}};
    for (unsigned round = 0; round < ROUNDS; round++) {
        tpv_http_server_t *server = NULL;
        pthread_t clients[CLIENTS];
        CHILD_CHECK(tpv_http_server_open(&options, &server) == TPV_OK);
        const char *port = strrchr(tpv_http_server_addresses(server), ':');
        address = (struct sockaddr_in){
            .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port + 1)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
        atomic_store(&ended, false);
        atomic_store(&answered, 0);
        for (unsigned i = 0; i < CLIENTS; i++)
            CHILD_CHECK(pthread_create(&clients[i], NULL, ask, NULL) == 0);
        while (atomic_load(&answered) < round % 50)
            sched_yield();
        tpv_http_server_quiesce(server);
        atomic_store(&ended, true);
        tpv_http_server_close(server);
        for (unsigned i = 0; i < CLIENTS; i++)
            pthread_join(clients[i], NULL);
    }
    return 0;
}

static void it_ends_while_clients_ask(void **state) {
    (void)state;
    assert_int_equal(child_wait(child_start(serve_and_end, NULL), LIMIT_S), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_ends_while_clients_ask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
