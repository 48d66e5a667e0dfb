/* How the plugin's TCP connections come about: choice of interface and family, strangers at the door, forks. Each test
 * runs in a child, since the plugin reads its environment once in a process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/child.h"
#include "common/net_plugin.h"

static net_plugin_t net;

static int in_child(int (*work)(void *), void *argument) {
    return child_wait(child_start(work, argument), 60);
}

static void send_one(net_pair_t *pair) {
    void *send, *receive;
    char in[4] = {0};
    CHILD_CHECK(net_irecv(&net, pair->receive, in, 4, &receive) == ncclSuccess);
    CHILD_CHECK(net_isend(&net, pair->send, "ping", 4, &send) == ncclSuccess);
    CHILD_CHECK(net_wait(&net, send, 10, NULL) == ncclSuccess);
    CHILD_CHECK(net_wait(&net, receive, 10, NULL) == ncclSuccess);
    CHILD_CHECK(memcmp(in, "ping", 4) == 0);
}

/* What a handle says: see docs/plugin.md. */
static int handle_addresses(const char *handle) {
    return (uint8_t)handle[10];
}

static int handle_family(const char *handle, int index) {
    return (uint8_t)handle[32 + 20 * index];
}

static void handle_sockaddr(const char *handle, struct sockaddr_storage *address, socklen_t *length) {
    memset(address, 0, sizeof *address);
    uint16_t port;
    memcpy(&port, handle + 34, 2);
    if (handle_family(handle, 0) == 6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        memcpy(&v6->sin6_addr, handle + 36, 16);
        *length = sizeof *v6;
    } else {
        struct sockaddr_in *v4 = (struct sockaddr_in *)address;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        memcpy(&v4->sin_addr, handle + 36, 4);
        *length = sizeof *v4;
    }
}

static int device_count(void) {
    int count = -1;
    net.v11->devices(&count);
    return count;
}

typedef struct {
    const char *ifname, *family;
    const char *only; /* the name that the one device must have; NULL: there must be no device */
} choice_t;

static int choose(void *argument) {
    const choice_t *choice = argument;
    setenv("NCCL_SOCKET_IFNAME", choice->ifname, 1);
    setenv("NCCL_SOCKET_FAMILY", choice->family, 1);
    ncclResult_t result = net_plugin_open(&net, net_plugin_path(NULL), 11);
    if (!choice->only) {
        CHILD_CHECK(result == ncclSystemError && !net.context);
        CHILD_CHECK(net_log_count("found no network interface") == 1);
        return 0;
    }
    CHILD_CHECK(result == ncclSuccess && device_count() == 1);
    ncclNetProperties_v11_t properties;
    CHILD_CHECK(net.v11->getProperties(0, &properties) == ncclSuccess);
    CHILD_CHECK(strcmp(properties.name, choice->only) == 0);
    net_pair_t pair;
    CHILD_CHECK(net_pair_open(&net, 0, &pair));
    int family = strcmp(choice->family, "AF_INET6") == 0 ? 6 : 4;
    CHILD_CHECK(handle_family(pair.handle, 0) == family);
    CHILD_CHECK(!*choice->family || handle_addresses(pair.handle) == 1);
    send_one(&pair);
    net_pair_close(&net, &pair);
    net_plugin_close(&net);
    return 0;
}

static void interfaces_are_chosen_as_nccl_does(void **state) {
    (void)state;
    static const choice_t choices[] = {
        {"lo", "", "lo"},         {"=lo", "AF_INET", "lo"},
        {"l,", "AF_INET", "lo"},  {"none,lo:1", "AF_INET", "lo"},
        {"=l,", "AF_INET", NULL}, {"nosuchinterface", "", NULL},
    };
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        assert_int_equal(in_child(choose, (void *)(uintptr_t)&choices[i]), 0);
}

static bool have_ipv6_loopback(void) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    bool have = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0) close(fd);
    return have;
}

static void ipv6_works(void **state) {
    (void)state;
    choice_t choice = {"=lo", "AF_INET6", "lo"};
    if (!have_ipv6_loopback()) skip();
    assert_int_equal(in_child(choose, &choice), 0);
}

/* Loopback is for hosts that have nothing else. */
static int exclude(void *argument) {
    const char *list = argument;
    if (*list)
        setenv("NCCL_SOCKET_IFNAME", list, 1);
    else
        unsetenv("NCCL_SOCKET_IFNAME");
    unsetenv("NCCL_SOCKET_FAMILY");
    if (net_plugin_open(&net, net_plugin_path(NULL), 11) != ncclSuccess) return *list ? 0 : 1;
    int count = device_count();
    CHILD_CHECK(count >= 1);
    for (int i = 0; i < count; i++) {
        ncclNetProperties_v11_t properties;
        CHILD_CHECK(net.v11->getProperties(i, &properties) == ncclSuccess);
        if (strcmp(properties.name, "lo") == 0) CHILD_CHECK(!*list && count == 1);
    }
    return 0;
}

static void loopback_only_when_nothing_else(void **state) {
    (void)state;
    assert_int_equal(in_child(exclude, ""), 0);
    assert_int_equal(in_child(exclude, "^lo"), 0);
}

static int bad_environment(void *argument) {
    (void)argument;
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    setenv("NCCL_SOCKET_FAMILY", "AF_UNIX", 1);
    setenv("TPVIEW_NET_PEER_TIMEOUT", "soon", 1);
    setenv("TPVIEW_NET_NO_SUCH_THING", "1", 1);
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), 11) == ncclSuccess);
    CHILD_CHECK(net_log_count("TPVIEW_NET_PEER_TIMEOUT=soon is ignored: expected a whole number from 3 to 86400") == 1);
    CHILD_CHECK(net_log_count("unknown environment variable TPVIEW_NET_NO_SUCH_THING") == 1);
    CHILD_CHECK(net_log_count("NCCL_SOCKET_FAMILY=AF_UNIX is ignored") == 1);
    return 0;
}

static void bad_environment_is_told_and_ignored(void **state) {
    (void)state;
    assert_int_equal(in_child(bad_environment, NULL), 0);
}

static int knock(const char *handle) {
    struct sockaddr_storage address;
    socklen_t length;
    handle_sockaddr(handle, &address, &length);
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHILD_CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, length) == 0);
    return fd;
}

/* Accept until the other side has closed `fd`. */
static void wait_dropped(void *listener, int fd) {
    int64_t deadline = tpv_deadline_in(15);
    char byte;
    for (;;) {
        void *comm = NULL;
        CHILD_CHECK(net.accept(listener, &comm, NULL) == ncclSuccess && !comm);
        ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);
        CHILD_CHECK(got <= 0);
        if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) return;
        CHILD_CHECK(!tpv_deadline_passed(deadline));
    }
}

static int strangers(void *argument) {
    (void)argument;
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    setenv("NCCL_SOCKET_FAMILY", "AF_INET", 1);
    setenv("TPVIEW_NET_CONNECT_TIMEOUT", "6", 1);
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), 11) == ncclSuccess);
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener = NULL;
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    int descriptors = net_open_descriptors();

    /* Garbage is dropped at once, a wrong id when it is whole, a hello that breaks off when it does. */
    int fd = knock(handle);
    CHILD_CHECK(send(fd, "GET / HTTP/1.1\r\n", 16, 0) == 16);
    wait_dropped(listener, fd);
    close(fd);
    fd = knock(handle);
    char hello[48] = "TPVHELLO\3\0\0\0\1";
    CHILD_CHECK(send(fd, hello, sizeof hello, 0) == sizeof hello);
    wait_dropped(listener, fd);
    close(fd);
    /* So are numbers that make no sense. */
    static const uint8_t count_and_index[][2] = {{0, 0}, {65, 0}, {2, 2}};
    memcpy(hello + 16, handle + 16, 16);
    for (size_t i = 0; i < sizeof count_and_index / sizeof *count_and_index; i++) {
        memcpy(hello + 12, count_and_index[i], 2);
        fd = knock(handle);
        CHILD_CHECK(send(fd, hello, sizeof hello, 0) == sizeof hello);
        wait_dropped(listener, fd);
        close(fd);
    }
    /* The same connection of a comm twice, or one of another number of them: the first one stays. */
    memcpy(hello + 12, (uint8_t[]){2, 1}, 2);
    int first = knock(handle);
    CHILD_CHECK(send(first, hello, sizeof hello, 0) == sizeof hello);
    static const uint8_t wrong_for_it[][2] = {{2, 1}, {3, 0}};
    for (size_t i = 0; i < 2; i++) {
        memcpy(hello + 12, wrong_for_it[i], 2);
        fd = knock(handle);
        CHILD_CHECK(send(fd, hello, sizeof hello, 0) == sizeof hello);
        wait_dropped(listener, fd);
        close(fd);
    }
    char byte;
    CHILD_CHECK(recv(first, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    close(first);
    /* A comm whose first connection goes away before the others come. */
    memcpy(hello + 12, (uint8_t[]){2, 0}, 2);
    hello[32] = 1;
    fd = knock(handle);
    CHILD_CHECK(send(fd, hello, sizeof hello, 0) == sizeof hello);
    shutdown(fd, SHUT_WR);
    void *never = NULL;
    for (int64_t deadline = tpv_deadline_in(15); net_log_count("1 of its 2 connections and is given up") < 2;) {
        CHILD_CHECK(!tpv_deadline_passed(deadline));
        CHILD_CHECK(net.accept(listener, &never, NULL) == ncclSuccess && !never);
    }
    close(fd);
    memset(hello + 10, 0, sizeof hello - 10);
    fd = knock(handle);
    CHILD_CHECK(send(fd, hello, 9, 0) == 9);
    shutdown(fd, SHUT_WR);
    wait_dropped(listener, fd);
    close(fd);
    CHILD_CHECK(net_log_count("WARN NET/TPView : dropped a connection from 127.0.0.1:") == 1);

    /* A crowd that says nothing, larger than there are places, and one of it that trickles: the rightful peer gets
     * through, long before their time is over. */
    enum { CROWD = 100 };
    int crowd[CROWD];
    for (int i = 0; i < CROWD; i++)
        crowd[i] = knock(handle);
    CHILD_CHECK(send(crowd[0], hello, 1, 0) == 1);
    int with_crowd = net_open_descriptors();
    net_pair_t pair = {.listener = listener};
    memcpy(pair.handle, handle, sizeof handle);
    for (int64_t deadline = tpv_deadline_in(5); !pair.send || !pair.receive;) {
        CHILD_CHECK(!tpv_deadline_passed(deadline));
        /* A process may have hundreds of listeners: each has a few of them only. */
        CHILD_CHECK(net_open_descriptors() <= with_crowd + 8 + 64);
        if (!pair.send) CHILD_CHECK(net_connect(&net, 0, pair.handle, &pair.send) == ncclSuccess);
        if (!pair.receive) CHILD_CHECK(net.accept(listener, &pair.receive, NULL) == ncclSuccess);
    }
    send_one(&pair);
    /* Those who stay silent are dropped when their time is over; comms that stand do not notice. */
    for (int i = 0; i < CROWD; i++) {
        wait_dropped(listener, crowd[i]);
        close(crowd[i]);
    }
    send_one(&pair);
    net.closeSend(pair.send);
    net.closeRecv(pair.receive);
    CHILD_CHECK(net_open_descriptors() == descriptors);
    net.closeListen(listener);
    net_plugin_close(&net);
    CHILD_CHECK(net_log_count("strangers dropped") == 1);
    return 0;
}

static void strangers_harm_nobody(void **state) {
    (void)state;
    assert_int_equal(in_child(strangers, NULL), 0);
}

static int child_of_user(void *argument) {
    net_pair_t *pair = argument;
    void *request = NULL, *comm = NULL;
    char byte = 0;
    void *data = &byte;
    size_t size = 1;
    int tag = 0;
    /* The parent's connections are refused, and closing them here does nothing to the parent. */
    CHILD_CHECK(net.isend(pair->send, &byte, 1, 0, NULL, NULL, &request) == ncclInvalidUsage && !request);
    CHILD_CHECK(net.irecv(pair->receive, 1, &data, &size, &tag, NULL, NULL, &request) == ncclInvalidUsage);
    CHILD_CHECK(net.accept(pair->listener, &comm, NULL) == ncclInvalidUsage && !comm);
    net_pair_close(&net, pair);
    net_plugin_close(&net);
    /* Its own are fine. */
    net_plugin_t again;
    CHILD_CHECK(net_plugin_open(&again, net_plugin_path(NULL), 11) == ncclSuccess);
    net = again;
    net_pair_t own;
    CHILD_CHECK(net_pair_open(&net, 0, &own));
    send_one(&own);
    net_pair_close(&net, &own);
    return 0;
}

static int user_that_forks(void *argument) {
    (void)argument;
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), 11) == ncclSuccess);
    net_pair_t pair;
    CHILD_CHECK(net_pair_open(&net, 0, &pair));
    /* A connect that is under way during the fork. */
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener = NULL, *send = NULL, *receive = NULL;
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    CHILD_CHECK(net_connect(&net, 0, handle, &send) == ncclSuccess);
    send_one(&pair);
    CHILD_CHECK(child_wait(child_start(child_of_user, &pair), 30) == 0);
    send_one(&pair);
    for (int64_t deadline = tpv_deadline_in(10); !send || !receive;) {
        CHILD_CHECK(!tpv_deadline_passed(deadline));
        if (!send) CHILD_CHECK(net_connect(&net, 0, handle, &send) == ncclSuccess);
        if (!receive) CHILD_CHECK(net.accept(listener, &receive, NULL) == ncclSuccess);
    }
    net.closeSend(send);
    net.closeRecv(receive);
    net.closeListen(listener);
    net_pair_close(&net, &pair);
    net_plugin_close(&net);
    return 0;
}

static void a_forked_child_leaves_its_parent_alone(void **state) {
    (void)state;
    assert_int_equal(in_child(user_that_forks, NULL), 0);
}

int main(void) {
#ifdef __SANITIZE_THREAD__
    setenv("NCCL_SOCKET_NTHREADS", "0", 1); /* it knows no threads of a child whose parent has some, too */
#endif
    setenv("TPVIEW_NET_LOCAL", "0", 1); /* TCP */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interfaces_are_chosen_as_nccl_does),
        cmocka_unit_test(ipv6_works),
        cmocka_unit_test(loopback_only_when_nothing_else),
        cmocka_unit_test(bad_environment_is_told_and_ignored),
        cmocka_unit_test(strangers_harm_nobody),
        cmocka_unit_test(a_forked_child_leaves_its_parent_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
