/* A helper thread of a TCP comm that cannot go on must not hold up what has nothing to do with its comm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "common/net_plugin.h"

#define BIG ((size_t)8 << 20)

static net_plugin_t net;

/* Memory whose pages come only when somebody gives them. -1: not to be had here. */
static int make_slow_memory(char **memory) {
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return -1;
    struct uffdio_api api = {.api = UFFD_API};
    *memory = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)*memory, BIG}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &range) == 0) return fd;
    munmap(*memory, BIG);
    close(fd);
    return -1;
}

typedef struct {
    void *comm;
    _Atomic int task;
    _Atomic bool closed;
} closer_t;

static void *close_comm(void *argument) {
    closer_t *closer = argument;
    closer->task = (int)syscall(SYS_gettid);
    net.closeSend(closer->comm);
    closer->closed = true;
    return NULL;
}

static bool asleep(int task) {
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", task);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0) close(fd);
    const char *rest = length > 0 ? strrchr(text, ')') : NULL;
    return rest && rest[2] == 'S';
}

static void a_helper_in_a_page_fault_holds_up_its_own_comm_only(void **state) {
    (void)state;
    char *memory = NULL, in = 0;
    int fd = make_slow_memory(&memory);
    if (fd < 0) skip();
    net_pair_t pair, other;
    void *request = NULL, *receive = NULL, *send = NULL;
    assert_true(net_pair_open(&net, 0, &pair));
    /* The owner sends the first byte, and so nothing of the slow memory, which is for the helpers. */
    assert_int_equal(net_irecv(&net, pair.receive, &in, 1, &receive), ncclSuccess);
    assert_int_equal(net_isend(&net, pair.send, "x", 1, &send), ncclSuccess);
    assert_int_equal(net_wait_pair(&net, send, receive, 10, NULL), ncclSuccess);
    assert_int_equal(net_isend(&net, pair.send, memory, BIG, &request), ncclSuccess);
    struct pollfd fault = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&fault, 1, 10000), 1);
    closer_t closer = {.comm = pair.send};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, close_comm, &closer), 0);
    for (int64_t deadline = tpv_deadline_in(10); !closer.task || !asleep(closer.task);)
        assert_false(tpv_deadline_passed(deadline));
    assert_true(net_pair_open(&net, 0, &other));
    net_pair_close(&net, &other);
    assert_false(closer.closed);
    /* Let them go. */
    struct uffdio_range range = {(uintptr_t)memory, BIG};
    assert_int_equal(ioctl(fd, UFFDIO_UNREGISTER, &range), 0);
    pthread_join(thread, NULL);
    pair.send = NULL;
    net_pair_close(&net, &pair);
    munmap(memory, BIG);
    close(fd);
}

int main(void) {
    setenv("TPVIEW_NET_LOCAL", "0", 1); /* TCP */
    setenv("NCCL_SOCKET_IFNAME", "=lo", 1);
    setenv("NCCL_SOCKET_NTHREADS", "2", 1);
    setenv("NCCL_NSOCKS_PERTHREAD", "1", 1);
    if (net_plugin_open(&net, net_plugin_path(NULL), NET_NEWEST) != ncclSuccess) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_helper_in_a_page_fault_holds_up_its_own_comm_only)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
