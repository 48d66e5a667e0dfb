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
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/child.h"
#include "common/net_plugin.h"

static net_plugin_t net;

static int in_child(int (*work)(void *), void *argument) {
    return child_wait(child_start(work, argument), 120);
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

/* ---- which devices a list of interfaces gives ---- */

typedef struct {
    const char *list; /* NULL: not set */
    int pipe[2];
} listing_t;

/* Writes the names of all devices, or what init's log says. */
static int list_devices(void *argument) {
    const listing_t *listing = argument;
    char names[1024] = "";
    listing->list ? setenv("NCCL_SOCKET_IFNAME", listing->list, 1) : unsetenv("NCCL_SOCKET_IFNAME");
    unsetenv("NCCL_SOCKET_FAMILY");
    ncclResult_t result = net_plugin_open(&net, net_plugin_path(NULL), 11);
    if (result != ncclSuccess) {
        CHILD_CHECK(result == ncclSystemError && net_log_count("found no network interface to use") == 1);
        strcpy(names, "none");
    }
    for (int i = 0; result == ncclSuccess && i < device_count(); i++) {
        ncclNetProperties_v11_t properties;
        CHILD_CHECK(net.v11->getProperties(i, &properties) == ncclSuccess);
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s ", properties.name);
    }
    CHILD_CHECK(write(listing->pipe[1], names, sizeof names) == sizeof names);
    return 0;
}

static const char *devices_of(const char *list, char names[1024]) {
    listing_t listing = {.list = list};
    assert_int_equal(pipe(listing.pipe), 0);
    assert_int_equal(in_child(list_devices, &listing), 0);
    assert_int_equal(read(listing.pipe[0], names, 1024), 1024);
    close(listing.pipe[0]);
    close(listing.pipe[1]);
    return names;
}

/* Whether this host has an interface that is chosen before loopback. */
static bool have_other_interface(void) {
    struct ifaddrs *all = NULL;
    bool have = false;
    assert_int_equal(getifaddrs(&all), 0);
    for (const struct ifaddrs *at = all; at; at = at->ifa_next) {
        bool usable = at->ifa_addr && (at->ifa_flags & IFF_UP) && (at->ifa_flags & IFF_RUNNING) &&
                      (at->ifa_addr->sa_family == AF_INET || at->ifa_addr->sa_family == AF_INET6);
        have = have || (usable && strncmp(at->ifa_name, "lo", 2) != 0 && strncmp(at->ifa_name, "virbr", 5) != 0);
    }
    freeifaddrs(all);
    return have;
}

static void loopback_only_when_nothing_else(void **state) {
    (void)state;
    char names[1024];
    bool other = have_other_interface();
    devices_of(NULL, names);
    assert_string_not_equal(names, "none");
    assert_int_equal(strstr(names, "lo ") == names, !other);
    if (other) assert_null(strstr(names, " lo "));
    devices_of("^lo", names);
    assert_null(strstr(names, "lo "));
    if (other) assert_string_not_equal(names, "none");
}

/* NCCL takes a value of one character for not set, and a list without names for all interfaces. */
static void lists_without_names_are_read_as_nccl_reads_them(void **state) {
    (void)state;
    static const char *const unset[] = {"^", "=", ",", "x"}, *const all[] = {",,", "=,", ":1"},
                             *const none[] = {"^,", "^="};
    char expected[1024], names[1024];
    devices_of(NULL, expected);
    for (size_t i = 0; i < sizeof unset / sizeof *unset; i++)
        assert_string_equal(devices_of(unset[i], names), expected);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_non_null(strstr(devices_of(all[i], names), "lo "));
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_string_equal(devices_of(none[i], names), "none");
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

/* Until the other end's kernel has all that was sent. */
static void await_delivery(int fd) {
    int left = 1;
    for (int64_t deadline = tpv_deadline_in(20); left;)
        CHILD_CHECK(ioctl(fd, SIOCOUTQ, &left) == 0 && !tpv_deadline_passed(deadline));
}

/* Accept until the other side has closed `fd`. */
static void wait_dropped(void *listener, int fd) {
    int64_t deadline = tpv_deadline_in(40);
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
    setenv("TPVIEW_NET_CONNECT_TIMEOUT", "14", 1);
    setenv("NCCL_SOCKET_NTHREADS", "0", 1);
    setenv("NCCL_NSOCKS_PERTHREAD", "1", 1);
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
    await_delivery(first);
    void *none = NULL;
    CHILD_CHECK(net.accept(listener, &none, NULL) == ncclSuccess && !none);
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
    for (int64_t deadline = tpv_deadline_in(40); net_log_count("1 of its 2 connections and is given up") < 2;) {
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
    for (int64_t deadline = tpv_deadline_in(12); !pair.send || !pair.receive;) {
        CHILD_CHECK(!tpv_deadline_passed(deadline));
        /* A process may have hundreds of listeners: each has a few of them only. */
        CHILD_CHECK(net_open_descriptors() <= with_crowd + 8 + 16);
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
    for (int64_t deadline = tpv_deadline_in(20); !send || !receive;) {
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
#ifdef __SANITIZE_ADDRESS__
    /* Its allocator has locks of its own, which a fork may find held by a thread that the child does not have. */
    print_message("    a child of a process with threads cannot allocate under AddressSanitizer\n");
    skip();
#endif
    assert_int_equal(in_child(user_that_forks, NULL), 0);
}

/* ---- what lacks for a while, and what cannot be had at all ---- */

static void open_plugin(void) {
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), 11) == ncclSuccess);
}

static void finish_pair(net_pair_t *pair) {
    for (int64_t deadline = tpv_deadline_in(20); !pair->send || !pair->receive;) {
        CHILD_CHECK(!tpv_deadline_passed(deadline));
        if (!pair->send) CHILD_CHECK(net_connect(&net, 0, pair->handle, &pair->send) == ncclSuccess);
        if (!pair->receive) CHILD_CHECK(net.accept(pair->listener, &pair->receive, NULL) == ncclSuccess);
    }
    send_one(pair);
    net_pair_close(&net, pair);
}

static int starve(void *argument) {
    (void)argument;
    net_pair_t pair = {0};
    setenv("NCCL_SOCKET_FAMILY", "AF_INET", 1);
    open_plugin();
    CHILD_CHECK(net_listen(&net, 0, pair.handle, &pair.listener) == ncclSuccess);
    /* On the accepting side: it stays where it is, and is told once. */
    int stranger = knock(pair.handle);
    CHILD_CHECK(net_limit_descriptors(0));
    for (int i = 0; i < 3; i++)
        CHILD_CHECK(net.accept(pair.listener, &pair.receive, NULL) == ncclSuccess && !pair.receive);
    CHILD_CHECK(net_log_count("Too many open files: trying again later") == 1);
    /* On the connecting one. */
    for (int i = 0; i < 3; i++)
        CHILD_CHECK(net_connect(&net, 0, pair.handle, &pair.send) == ncclSuccess && !pair.send);
    CHILD_CHECK(net_limit_descriptors(-1));
    finish_pair(&pair);
    close(stranger);
    return 0;
}

static void out_of_descriptors_is_later(void **state) {
    (void)state;
    assert_int_equal(in_child(starve, NULL), 0);
}

typedef struct {
    int to_sender[2], to_receiver[2];
} talk_t;

static int connect_with_one_descriptor(void *argument) {
    talk_t *talk = argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE], go;
    void *comm = NULL, *request;
    setenv("NCCL_SOCKET_NTHREADS", "0", 1);
    setenv("NCCL_NSOCKS_PERTHREAD", "3", 1);
    open_plugin();
    CHILD_CHECK(read(talk->to_sender[0], handle, sizeof handle) == sizeof handle);
    int before = net_open_descriptors();
    CHILD_CHECK(net_limit_descriptors(1));
    for (int64_t deadline = tpv_deadline_in(20); !comm;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net_connect(&net, 0, handle, &comm) == ncclSuccess);
    CHILD_CHECK(net_limit_descriptors(-1) && net_open_descriptors() == before + 1);
    CHILD_CHECK(net_isend(&net, comm, "ping", 4, &request) == ncclSuccess);
    CHILD_CHECK(net_wait(&net, request, 10, NULL) == ncclSuccess);
    CHILD_CHECK(read(talk->to_sender[0], &go, 1) == 1);
    net.closeSend(comm);
    return 0;
}

static int accept_what_comes(void *argument) {
    talk_t *talk = argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE], in[4] = "";
    void *listener = NULL, *comm = NULL, *request;
    open_plugin();
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    CHILD_CHECK(write(talk->to_sender[1], handle, sizeof handle) == sizeof handle);
    for (int64_t deadline = tpv_deadline_in(20); !comm;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net.accept(listener, &comm, NULL) == ncclSuccess);
    CHILD_CHECK(net_irecv(&net, comm, in, 4, &request) == ncclSuccess);
    CHILD_CHECK(net_wait(&net, request, 10, NULL) == ncclSuccess && memcmp(in, "ping", 4) == 0);
    CHILD_CHECK(write(talk->to_sender[1], "!", 1) == 1);
    net.closeRecv(comm);
    net.closeListen(listener);
    return 0;
}

static void connections_that_cannot_be_had_are_done_without(void **state) {
    (void)state;
    talk_t talk;
    assert_int_equal(pipe(talk.to_sender), 0);
    assert_int_equal(pipe(talk.to_receiver), 0);
    pid_t receiver = child_start(accept_what_comes, &talk), sender = child_start(connect_with_one_descriptor, &talk);
    assert_int_equal(child_wait(sender, 30), 0);
    assert_int_equal(child_wait(receiver, 30), 0);
    for (int i = 0; i < 2; i++) {
        close(talk.to_sender[i]);
        close(talk.to_receiver[i]);
    }
}

/* socket() for one family gives an errno, as on hosts where it is switched off or forbidden. */
static void refuse_family(int family, int error_number) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)family, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error_number),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* The handle names both families, and the one that cannot be had comes first. */
static int do_without(void *argument) {
    int error_number = *(const int *)argument;
    net_pair_t pair = {0};
    char first[20];
    unsetenv("NCCL_SOCKET_FAMILY");
    open_plugin();
    CHILD_CHECK(net_listen(&net, 0, pair.handle, &pair.listener) == ncclSuccess);
    CHILD_CHECK(handle_addresses(pair.handle) == 2);
    memcpy(first, pair.handle + 32, 20);
    memcpy(pair.handle + 32, pair.handle + 52, 20);
    memcpy(pair.handle + 52, first, 20);
    refuse_family(AF_INET6, error_number);
    finish_pair(&pair);
    /* A new listener has the other address alone. */
    CHILD_CHECK(net_listen(&net, 0, pair.handle, &pair.listener) == ncclSuccess);
    CHILD_CHECK(handle_addresses(pair.handle) == 1 && handle_family(pair.handle, 0) == 4);
    finish_pair(&pair);
    CHILD_CHECK(net_log_count("WARN") == 0);
    return 0;
}

static void an_address_that_cannot_be_used_spoils_no_other(void **state) {
    (void)state;
    static const int errors[] = {EAFNOSUPPORT, EACCES, EPERM, EADDRNOTAVAIL, ENETDOWN, EINVAL};
    if (!have_ipv6_loopback()) skip();
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        assert_int_equal(in_child(do_without, (void *)(uintptr_t)&errors[i]), 0);
}

/* The first address does not answer, the second one refuses: the first one gets all of the time. */
static int wait_for_the_first(void *argument) {
    (void)argument;
    int fds[3];
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener = NULL, *comm = NULL;
    struct sockaddr_in nobody = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof nobody;
    setenv("TPVIEW_NET_CONNECT_TIMEOUT", "6", 1);
    open_plugin();
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    net.closeListen(listener);
    /* Bound, so that no other test listens there. */
    int bound = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHILD_CHECK(bind(bound, (struct sockaddr *)&nobody, sizeof nobody) == 0);
    CHILD_CHECK(getsockname(bound, (struct sockaddr *)&nobody, &length) == 0);
    net_handle_redirect(handle, 0, 2, net_silent_port(fds));
    net_handle_redirect(handle, 1, 2, ntohs(nobody.sin_port));
    ncclResult_t result = ncclSuccess;
    int64_t begun = tpv_clock_ns();
    for (int64_t deadline = tpv_deadline_in(40); result == ncclSuccess;) {
        CHILD_CHECK(!tpv_deadline_passed(deadline));
        result = net_connect(&net, 0, handle, &comm);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    CHILD_CHECK(result == ncclRemoteError && !comm);
    CHILD_CHECK(tpv_clock_ns() - begun >= 6 * TPV_NS_PER_SECOND);
    CHILD_CHECK(net_log_count("Connection timed out") == 1);
    return 0;
}

static void a_refused_address_does_not_shorten_the_patience_with_another(void **state) {
    (void)state;
    assert_int_equal(in_child(wait_for_the_first, NULL), 0);
}

/* ---- slow callers ---- */

static int accept_late(void *argument) {
    (void)argument;
    net_pair_t pair = {0};
    setenv("TPVIEW_NET_CONNECT_TIMEOUT", "1", 1);
    open_plugin();
    CHILD_CHECK(net_listen(&net, 0, pair.handle, &pair.listener) == ncclSuccess);
    for (int64_t deadline = tpv_deadline_in(20); !pair.send;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net_connect(&net, 0, pair.handle, &pair.send) == ncclSuccess);
    /* Longer than either side would have waited had it been asked. */
    nanosleep(&(struct timespec){.tv_sec = 2, .tv_nsec = 500000000}, NULL);
    finish_pair(&pair);
    return 0;
}

/* A connection that stands for a while before its hello comes. */
static int greet_late(void *argument) {
    (void)argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE], greeting[52] = "TPVHELLO\3\0\4\0\1";
    void *listener = NULL, *comm = NULL;
    open_plugin();
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    int fd = knock(handle);
    for (int64_t until = tpv_deadline_in(8); !tpv_deadline_passed(until);) {
        CHILD_CHECK(net.accept(listener, &comm, NULL) == ncclSuccess && !comm);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    memcpy(greeting + 16, handle + 16, 16);
    greeting[48] = 1;
    CHILD_CHECK(send(fd, greeting, sizeof greeting, MSG_NOSIGNAL) == sizeof greeting);
    for (int64_t deadline = tpv_deadline_in(20); !comm;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net.accept(listener, &comm, NULL) == ncclSuccess);
    CHILD_CHECK(net_log_count("dropped a connection") == 0);
    net.closeRecv(comm);
    net.closeListen(listener);
    close(fd);
    return 0;
}

/* More connections than are heard at the same time, whose hellos all come while the caller is away. */
static int greet_meanwhile(void *argument) {
    enum { CONNECTIONS = 16 };
    (void)argument;
    char handle[NCCL_NET_HANDLE_MAXSIZE], greeting[52] = "TPVHELLO\3\0";
    void *listener = NULL, *comm = NULL;
    int fds[CONNECTIONS];
    open_plugin();
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    for (int i = 0; i < CONNECTIONS; i++)
        fds[i] = knock(handle);
    CHILD_CHECK(net.accept(listener, &comm, NULL) == ncclSuccess && !comm);
    memcpy(greeting + 16, handle + 16, 16);
    memcpy(greeting + 32, "one and the same", 16);
    greeting[12] = CONNECTIONS;
    greeting[48] = 1;
    for (int i = 0; i < CONNECTIONS; i++) {
        size_t size = i ? 48 : 52;
        greeting[10] = i ? 0 : 4;
        greeting[13] = (char)i;
        CHILD_CHECK(send(fds[i], greeting, size, MSG_NOSIGNAL) == (ssize_t)size);
    }
    /* Longer than a stranger may be silent when others wait. */
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    for (int64_t deadline = tpv_deadline_in(20); !comm;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net.accept(listener, &comm, NULL) == ncclSuccess);
    CHILD_CHECK(net_log_count("dropped a connection") == 0 && net_log_count("WARN") == 0);
    net.closeRecv(comm);
    net.closeListen(listener);
    for (int i = 0; i < CONNECTIONS; i++)
        close(fds[i]);
    return 0;
}

static void slow_callers_lose_nothing(void **state) {
    (void)state;
    pid_t acceptor = child_start(accept_late, NULL), greeter = child_start(greet_late, NULL),
          many = child_start(greet_meanwhile, NULL);
    assert_int_equal(child_wait(acceptor, 30), 0);
    assert_int_equal(child_wait(greeter, 30), 0);
    assert_int_equal(child_wait(many, 30), 0);
}

/* ---- keepalive ---- */

static int measure_keepalive(void *argument) {
    int timeout = *(const int *)argument, looked_at = 0;
    char text[16];
    net_pair_t pair;
    snprintf(text, sizeof text, "%d", timeout);
    setenv("TPVIEW_NET_PEER_TIMEOUT", text, 1);
    open_plugin();
    CHILD_CHECK(net_pair_open(&net, 0, &pair));
    for (int fd = 3; fd < 256; fd++) {
        int on = 0, idle = 0, interval = 0, count = 0;
        struct sockaddr_storage peer;
        socklen_t length = sizeof peer, size = sizeof on;
        if (getpeername(fd, (struct sockaddr *)&peer, &length) != 0) continue;
        CHILD_CHECK(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &size) == 0 && on);
        CHILD_CHECK(getsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, &size) == 0);
        CHILD_CHECK(getsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, &size) == 0);
        CHILD_CHECK(getsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, &size) == 0);
        int total = idle + interval * count;
        CHILD_CHECK(total >= timeout - count && total <= timeout + 1);
        looked_at++;
    }
    CHILD_CHECK(looked_at >= 2);
    net_pair_close(&net, &pair);
    return 0;
}

static void any_peer_timeout_is_applied(void **state) {
    (void)state;
    static const int timeouts[] = {3, 30, 65534, 65536, 70000, 86400};
    for (size_t i = 0; i < sizeof timeouts / sizeof *timeouts; i++)
        assert_int_equal(in_child(measure_keepalive, (void *)(uintptr_t)&timeouts[i]), 0);
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
        cmocka_unit_test(lists_without_names_are_read_as_nccl_reads_them),
        cmocka_unit_test(out_of_descriptors_is_later),
        cmocka_unit_test(connections_that_cannot_be_had_are_done_without),
        cmocka_unit_test(an_address_that_cannot_be_used_spoils_no_other),
        cmocka_unit_test(a_refused_address_does_not_shorten_the_patience_with_another),
        cmocka_unit_test(slow_callers_lose_nothing),
        cmocka_unit_test(any_peer_timeout_is_applied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
