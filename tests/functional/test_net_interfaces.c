/* Network interfaces that come, go and look alike: each test makes its own in namespaces that end with its processes.
 * Skipped where that is not allowed or there is no `ip`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/child.h"
#include "common/net_plugin.h"

#define BLOCK ((size_t)4 << 20)
#define SKIPPED 77

static net_plugin_t net;

/* ---- in a child: interfaces ---- */

__attribute__((format(printf, 1, 2))) static bool ip(const char *format, ...) {
    char command[256] = "ip ";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command + 3, sizeof command - 3, format, arguments);
    va_end(arguments);
    return system(command) == 0; /* NOLINT: a fixed text */
}

static bool set_sysctl(const char *path, const char *value) {
    char whole[128];
    snprintf(whole, sizeof whole, "/proc/sys/net/%s", path);
    int fd = open(whole, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value);
    if (fd >= 0) close(fd);
    return good;
}

/* A network of its own, in which addresses can be used as soon as they are there. */
static bool enter_network(void) {
    return unshare(CLONE_NEWNET) == 0 && ip("link set lo up") && set_sysctl("ipv6/conf/all/accept_dad", "0") &&
           set_sysctl("ipv6/conf/default/accept_dad", "0");
}

static void await(int fd) {
    char byte;
    child_read(fd, &byte, 1);
}

static void signal_to(int fd) {
    child_write(fd, "!", 1);
}

/* Until it is up and its addresses can be used, which takes the kernel a moment even without a check for others. */
static void await_running(const char *name) {
    char command[160];
    snprintf(command, sizeof command,
             "ip link show dev %s | grep -q 'state UP' && ! ip -6 address show dev %s tentative | grep -q inet6", name,
             name);
    for (int64_t deadline = tpv_deadline_in(20); system(command) != 0;) /* NOLINT: a fixed text */
        CHILD_CHECK(!tpv_deadline_passed(deadline));
}

/* The kernel gives it one when it runs, and may take a moment. */
static void await_link_local(const char *name) {
    char command[96];
    snprintf(command, sizeof command, "ip -6 address show dev %s scope link -tentative | grep -q fe80", name);
    for (int64_t deadline = tpv_deadline_in(20); system(command) != 0;) /* NOLINT: a fixed text */
        CHILD_CHECK(!tpv_deadline_passed(deadline));
}

static void open_plugin(const char *interfaces, const char *family) {
    setenv("NCCL_SOCKET_IFNAME", interfaces, 1);
    setenv("NCCL_SOCKET_FAMILY", family, 1);
    CHILD_CHECK(net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) == ncclSuccess);
}

static void *connect_from(int device, char *handle) {
    void *comm = NULL;
    for (int64_t deadline = tpv_deadline_in(20); !comm;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net_connect(&net, device, handle, &comm) == ncclSuccess);
    return comm;
}

static void *accept_at(void *listener) {
    void *comm = NULL;
    for (int64_t deadline = tpv_deadline_in(20); !comm;)
        CHILD_CHECK(!tpv_deadline_passed(deadline) && net.accept(listener, &comm, NULL) == ncclSuccess);
    return comm;
}

static void check(int status) {
    if (status == SKIPPED) skip();
    assert_int_equal(status, 0);
}

/* ---- two interfaces in one subnet, and another host ---- */

typedef struct {
    const char *family;
    const char *addresses[2]; /* of a0 and a1; NULL: link-local ones */
    const char *peer;
    int to_peer[2], from_peer[2];
} hosts_t;

/* What the interface has sent. */
static unsigned long long sent_by(const char *name) {
    char line[512];
    unsigned long long bytes = 0;
    FILE *file = fopen("/proc/self/net/dev", "re");
    CHILD_CHECK(file);
    while (fgets(line, sizeof line, file)) {
        const char *at = strstr(line, name);
        if (at && at[strlen(name)] == ':')
            CHILD_CHECK(sscanf(at + strlen(name) + 1, "%*u %*u %*u %*u %*u %*u %*u %*u %llu", &bytes) == 1);
    }
    fclose(file);
    return bytes;
}

/* How many connections of this process there are, all of them with `address` (NULL: any) at the other end. */
static int count_connections(const char *address) {
    int count = 0;
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_storage peer;
        socklen_t length = sizeof peer;
        char text[INET6_ADDRSTRLEN] = "";
        if (getpeername(fd, (struct sockaddr *)&peer, &length) != 0) continue;
        if (peer.ss_family == AF_INET)
            inet_ntop(AF_INET, &((struct sockaddr_in *)&peer)->sin_addr, text, sizeof text);
        else
            inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&peer)->sin6_addr, text, sizeof text);
        CHILD_CHECK(!address || strcmp(text, address) == 0);
        count++;
    }
    return count;
}

/* Until the peers' kernels have all that was sent, so that none of it is sent again. */
static void await_acknowledged(void) {
    int64_t deadline = tpv_deadline_in(20);
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_storage peer;
        socklen_t length = sizeof peer;
        if (getpeername(fd, (struct sockaddr *)&peer, &length) != 0) continue;
        for (int left = 1; left;)
            CHILD_CHECK(ioctl(fd, SIOCOUTQ, &left) == 0 && !tpv_deadline_passed(deadline));
    }
}

/* The other host: both of the interfaces lead to its bridge. */
static int be_other_host(void *argument) {
    hosts_t *hosts = argument;
    char *block = malloc(BLOCK), handle[NCCL_NET_HANDLE_MAXSIZE];
    CHILD_CHECK(enter_network());
    signal_to(hosts->from_peer[1]);
    await(hosts->to_peer[0]);
    CHILD_CHECK(ip("link add br0 type bridge") && ip("link set b0 master br0 up") && ip("link set b1 master br0 up"));
    if (hosts->addresses[0]) CHILD_CHECK(ip("address add %s dev br0", hosts->peer));
    CHILD_CHECK(ip("link set br0 up"));
    await_running("br0");
    if (!hosts->addresses[0]) await_link_local("br0");
    open_plugin("=br0", hosts->family);
    for (int device = 0; device < 2; device++) {
        void *listener, *request;
        CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
        child_write(hosts->from_peer[1], handle, sizeof handle);
        void *comm = accept_at(listener);
        net.closeListen(listener);
        CHILD_CHECK(count_connections(hosts->addresses[device]) >= 1);
        CHILD_CHECK(net_irecv(&net, comm, block, BLOCK, &request) == ncclSuccess);
        CHILD_CHECK(net_wait(&net, request, 20, NULL) == ncclSuccess && net_check(block, BLOCK, (uint64_t)device));
        signal_to(hosts->from_peer[1]);
        await(hosts->to_peer[0]); /* the sender must not find it closed while it still looks */
        net.closeRecv(comm);
    }
    return 0;
}

static bool link_hosts(const hosts_t *hosts, pid_t peer) {
    /* Each interface answers for its own address only, as hosts with several in one subnet are set up. */
    if (!set_sysctl("ipv4/conf/all/arp_ignore", "1") || !set_sysctl("ipv4/conf/all/rp_filter", "0") ||
        !set_sysctl("ipv4/conf/default/rp_filter", "0"))
        return false;
    for (int i = 0; i < 2; i++) {
        if (!ip("link add a%d type veth peer name b%d netns %d", i, i, (int)peer)) return false;
        const char *prefix = strchr(hosts->peer, '/');
        if (hosts->addresses[i] && !ip("address add %s%s dev a%d", hosts->addresses[i], prefix, i)) return false;
        if (!ip("link set a%d up", i)) return false;
    }
    return true;
}

static int use_either(void *argument) {
    hosts_t *hosts = argument;
    if (!enter_network()) return SKIPPED;
    CHILD_CHECK(pipe(hosts->to_peer) == 0 && pipe(hosts->from_peer) == 0);
    pid_t peer = child_start(be_other_host, hosts);
    await(hosts->from_peer[0]);
    if (!link_hosts(hosts, peer)) {
        kill(peer, SIGKILL);
        return SKIPPED;
    }
    signal_to(hosts->to_peer[1]);
    char *block = malloc(BLOCK), handle[NCCL_NET_HANDLE_MAXSIZE];
    await_running("a0");
    await_running("a1");
    for (int i = 0; i < 2 && !hosts->addresses[0]; i++)
        await_link_local(i ? "a1" : "a0");
    open_plugin("=a0,a1", hosts->family);
    for (int device = 0; device < 2; device++) {
        tpv_net_device_t properties;
        void *request;
        CHILD_CHECK(net.abi.properties(&net.abi, device, &properties) == ncclSuccess);
        CHILD_CHECK(strcmp(properties.name, device ? "a1" : "a0") == 0);
        child_read(hosts->from_peer[0], handle, sizeof handle);
        unsigned long long before[2] = {sent_by("a0"), sent_by("a1")};
        void *comm = connect_from(device, handle);
        net_fill(block, BLOCK, (uint64_t)device);
        CHILD_CHECK(net_isend(&net, comm, block, BLOCK, &request) == ncclSuccess);
        CHILD_CHECK(net_wait(&net, request, 20, NULL) == ncclSuccess);
        await(hosts->from_peer[0]);
        await_acknowledged();
        net.closeSend(comm);
        signal_to(hosts->to_peer[1]);
        CHILD_CHECK(sent_by(device ? "a1" : "a0") - before[device] >= BLOCK);
        CHILD_CHECK(sent_by(device ? "a0" : "a1") - before[!device] < BLOCK / 4);
    }
    if (net_log_count("WARN")) fprintf(stderr, "the log:\n%s", net_log_text());
    CHILD_CHECK(net_log_count("WARN") == 0);
    /* Link-local addresses mean something with their interface only. */
    if (!hosts->addresses[0]) CHILD_CHECK(net_log_count("%a0]") >= 1 && net_log_count("%a1]") >= 1);
    return child_wait(peer, 20);
}

static int in_child(int (*work)(void *), void *argument) {
    return child_wait(child_start(work, argument), 60);
}

static void the_chosen_interface_carries_the_data(void **state) {
    (void)state;
    static hosts_t kinds[] = {
        {.family = "AF_INET", .addresses = {"10.78.0.10", "10.78.0.11"}, .peer = "10.78.0.1/24"},
        {.family = "AF_INET6", .addresses = {"fd78::10", "fd78::11"}, .peer = "fd78::1/64"},
        {.family = "AF_INET6", .peer = "/"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        check(in_child(use_either, &kinds[i]));
}

/* ---- addresses that go away ---- */

typedef struct {
    bool killed; /* the receiver does not close, but dies */
    int to_peer[2], from_peer[2];
} duo_t;

static bool make_interface(void) {
    if (!enter_network() || !ip("link add d0 type veth peer name d1") || !ip("address add 10.79.0.1/24 dev d0") ||
        !ip("address add fd79::1/64 dev d0 nodad") || !ip("link set d0 up") || !ip("link set d1 up"))
        return false;
    await_running("d0");
    return true;
}

static void move(bool sends, void *comm, char *block, uint64_t seed) {
    void *request;
    if (sends) net_fill(block, BLOCK, seed);
    CHILD_CHECK((sends ? net_isend(&net, comm, block, BLOCK, &request)
                       : net_irecv(&net, comm, block, BLOCK, &request)) == ncclSuccess);
    CHILD_CHECK(net_wait(&net, request, 20, NULL) == ncclSuccess && (sends || net_check(block, BLOCK, seed)));
}

static int receive_on(void *argument) {
    duo_t *duo = argument;
    char *block = malloc(BLOCK), handle[NCCL_NET_HANDLE_MAXSIZE], more;
    void *listener;
    open_plugin("=d0", "AF_INET");
    CHILD_CHECK(net_listen(&net, 0, handle, &listener) == ncclSuccess);
    child_write(duo->from_peer[1], handle, sizeof handle);
    void *comm = accept_at(listener);
    for (uint64_t count = 0;; count++) {
        child_read(duo->to_peer[0], &more, 1);
        if (more != '!') break;
        move(false, comm, block, count);
    }
    CHILD_CHECK(net_log_count("WARN") == 0);
    if (duo->killed) raise(SIGKILL);
    net.closeRecv(comm);
    for (;;)
        pause();
}

static int lose_the_address(void *argument) {
    duo_t *duo = argument;
    char *block = malloc(BLOCK), handle[NCCL_NET_HANDLE_MAXSIZE];
    uint64_t count = 0;
    void *request = NULL;
    if (!make_interface()) return SKIPPED;
    setenv("TPVIEW_NET_LOCAL", "1", 1);
    setenv("TPVIEW_NET_PEER_TIMEOUT", "3", 1);
    CHILD_CHECK(pipe(duo->to_peer) == 0 && pipe(duo->from_peer) == 0);
    pid_t peer = child_start(receive_on, duo);
    open_plugin("=d0", "AF_INET");
    child_read(duo->from_peer[0], handle, sizeof handle);
    void *comm = connect_from(0, handle);
    for (int64_t until = tpv_deadline_in(5); count < 2 || !tpv_deadline_passed(until); count++) {
        signal_to(duo->to_peer[1]);
        move(true, comm, block, count);
        if (count == 0) CHILD_CHECK(ip("address del 10.79.0.1/24 dev d0"));
    }
    CHILD_CHECK(net_log_count("on this host (10.79.0.1:") == 1 && net_log_count("WARN") == 0);
    child_write(duo->to_peer[1], ".", 1);
    CHILD_CHECK(net_isend(&net, comm, block, BLOCK, &request) == ncclSuccess);
    CHILD_CHECK(net_wait(&net, request, 20, NULL) == ncclRemoteError);
    CHILD_CHECK(net_log_count(duo->killed ? "its process has ended" : "the peer closed the connection") == 1);
    net.closeSend(comm);
    kill(peer, SIGKILL);
    return 0;
}

static void an_address_that_goes_breaks_no_comm_within_the_host(void **state) {
    (void)state;
    static duo_t closes = {.killed = false}, dies = {.killed = true};
    check(in_child(lose_the_address, &closes));
    check(in_child(lose_the_address, &dies));
}

/* A host with the other end of d0, and with an address that is wanted here. */
static int have_the_address(void *argument) {
    hosts_t *hosts = argument;
    CHILD_CHECK(enter_network());
    signal_to(hosts->from_peer[1]);
    await(hosts->to_peer[0]);
    CHILD_CHECK(ip("address add fd79::2/64 dev d1 nodad") && ip("link set d1 up"));
    signal_to(hosts->from_peer[1]);
    for (;;)
        pause();
}

static void get_a_taken_address(void) {
    hosts_t hosts;
    CHILD_CHECK(pipe(hosts.to_peer) == 0 && pipe(hosts.from_peer) == 0);
    pid_t peer = child_start(have_the_address, &hosts);
    await(hosts.from_peer[0]);
    CHILD_CHECK(ip("link set d1 netns %d", (int)peer));
    signal_to(hosts.to_peer[1]);
    await(hosts.from_peer[0]);
    await_running("d0");
    CHILD_CHECK(set_sysctl("ipv6/conf/d0/accept_dad", "1") && ip("address add fd79::2/64 dev d0"));
    for (int64_t deadline = tpv_deadline_in(20); system("ip address show dev d0 dadfailed | grep -q fd79::2") != 0;)
        CHILD_CHECK(!tpv_deadline_passed(deadline));
}

static int lose_the_second_address(void *argument) {
    (void)argument;
    net_pair_t pair;
    if (!make_interface()) return SKIPPED;
    open_plugin("=d0", "");
    CHILD_CHECK(net_pair_open(&net, 0, &pair) && pair.handle[10] == 2); /* addresses */
    net_pair_close(&net, &pair);
    CHILD_CHECK(ip("address del fd79::1/64 dev d0"));
    CHILD_CHECK(net_pair_open(&net, 0, &pair) && pair.handle[10] == 1);
    net_pair_close(&net, &pair);
    /* One that cannot be used, as another host has it. */
    get_a_taken_address();
    CHILD_CHECK(net_pair_open(&net, 0, &pair) && pair.handle[10] == 1);
    net_pair_close(&net, &pair);
    CHILD_CHECK(net_log_count("WARN") == 0);
    return 0;
}

static void listening_does_without_an_address_that_cannot_be_used(void **state) {
    (void)state;
    check(in_child(lose_the_second_address, NULL));
}

/* The kernel names an interface's second address by its label; NCCL_SOCKET_IFNAME selects labels by their prefix. */
static int listen_at_a_label(void *argument) {
    (void)argument;
    static const uint8_t labelled[] = {10, 80, 0, 1};
    char handle[NCCL_NET_HANDLE_MAXSIZE];
    void *listener;
    ncclNetProperties_v12_t properties;
    int devices = 0, found = -1;
    if (!make_interface() || !ip("address add 10.80.0.1/24 dev d0 label d0:1")) return SKIPPED;
    open_plugin("d0", "AF_INET");
    CHILD_CHECK(net.v12->devices(&devices) == ncclSuccess);
    for (int i = 0; i < devices; i++) {
        CHILD_CHECK(net.v12->getProperties(i, &properties) == ncclSuccess);
        if (strcmp(properties.name, "d0:1") == 0) found = i;
    }
    CHILD_CHECK(found >= 0);
    CHILD_CHECK(net_listen(&net, found, handle, &listener) == ncclSuccess);
    CHILD_CHECK(handle[10] == 1 && memcmp(handle + 36, labelled, sizeof labelled) == 0);
    net.closeListen(listener);
    return 0;
}

static void a_labelled_address_keeps_its_own(void **state) {
    (void)state;
    check(in_child(listen_at_a_label, NULL));
}

int main(void) {
    setenv("TPVIEW_NET_LOCAL", "0", 1); /* over the network, unless a test says otherwise */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_chosen_interface_carries_the_data),
        cmocka_unit_test(an_address_that_goes_breaks_no_comm_within_the_host),
        cmocka_unit_test(listening_does_without_an_address_that_cannot_be_used),
        cmocka_unit_test(a_labelled_address_keeps_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
