/* Requests as bytes: what a client may send over one connection to a running service, up to its last byte. The service
 * must answer or close, answer others all the same, and be left with nothing under way. */
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "service/service.h"

#define ANSWER_S 30.0 /* beyond any time-out of the service */
#define READ_NS (5 * TPV_NS_PER_MS)
#define LOOK_PERIOD 64 /* inputs between two looks at the service's state */
#define HEADER "{\"w\":{\"dtype\":\"BF16\",\"shape\":[8,16],\"data_offsets\":[0,256]}}    "

static char folder[] = "/tmp/tpview-fuzz-XXXXXX";
static char file[64], path[64];
static tpv_service_t *service;

static void check(bool good, const char *what) {
    if (good) return;
    fprintf(stderr, "fuzz_http: %s: %s\n", what, tpv_error_message());
    abort();
}

static void write_checkpoint(void) {
    uint64_t length = strlen(HEADER);
    char data[256] = {0};
    FILE *stream = fopen(file, "wb");
    check(stream && fwrite(&length, sizeof length, 1, stream) == 1 && fwrite(HEADER, length, 1, stream) == 1 &&
              fwrite(data, sizeof data, 1, stream) == 1 && fclose(stream) == 0,
          "no checkpoint");
}

static tpv_entry_t *open_entry(void) {
    char definition[128];
    tpv_entry_t *entry = NULL;
    snprintf(definition, sizeof definition, "m@1=%s", file);
    check(tpv_entry_create(definition, &entry) == TPV_OK && tpv_entry_open(entry, 1, NULL, NULL) == TPV_OK, "no entry");
    return entry;
}

static void remove_files(void) {
    char table[128];
    snprintf(table, sizeof table, "/dev/shm/tpview-%s-%u", getenv("TPVIEW_NAMESPACE"), (unsigned)geteuid());
    unlink(table);
    unlink(file);
    unlink(path);
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    char name[32];
    snprintf(name, sizeof name, "fuzz-%d", (int)getpid());
    setenv("TPVIEW_NAMESPACE", name, 1);
    signal(SIGPIPE, SIG_IGN);
    check(mkdtemp(folder) != NULL, "no folder");
    setenv("TPVIEW_CACHE_DIR", folder, 1);
    snprintf(file, sizeof file, "%s/m.safetensors", folder);
    snprintf(path, sizeof path, "%s/socket", folder);
    atexit(remove_files);
    write_checkpoint();
    tpv_service_options_t options = {.unix_path = path,
                                     .threads = 1,
                                     .max_fetches = 16,
                                     .idle_s = 5,
                                     .lease_ttl_s = 1,
                                     .budget = 64 << 20,
                                     .export_ttl_s = 1};
    tpv_entry_t *entry = open_entry();
    check(tpv_service_open(&options, &entry, 1, &service) == TPV_OK, "no service");
    tpv_entry_release(entry);
    return 0;
}

static int connected(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, strlen(path));
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(s >= 0 && connect(s, (struct sockaddr *)&address, sizeof address) == 0, "no connection");
    return s;
}

/* libFuzzer's clock interrupts. */
static bool wait_for(struct pollfd *one) {
    int64_t deadline = tpv_deadline_in(ANSWER_S);
    int found;
    do
        found = poll(one, 1, 1000);
    while ((found == 0 || (found < 0 && errno == EINTR)) && !tpv_deadline_passed(deadline));
    return found > 0;
}

/* End our direction, once the service has read what came before, or has not for a while: libmicrohttpd 0.9.75 overlooks
 * an end that comes together with bytes, until the request's time is over. */
static void finish(int s) {
    int64_t deadline = tpv_clock_ns() + READ_NS;
    int unread = 1;
    while (ioctl(s, SIOCOUTQ, &unread) == 0 && unread > 0 && !tpv_deadline_passed(deadline))
        sched_yield();
    shutdown(s, SHUT_WR);
}

/* Both directions at once: neither side may wait for the other to read. Returns what came first. */
static size_t exchange(const uint8_t *data, size_t size, char *answer, size_t room) {
    char rest[4096];
    size_t got = 0, sent = 0;
    int s = connected();
    if (size == 0) finish(s);
    for (;;) {
        struct pollfd one = {.fd = s, .events = (short)(POLLIN | (sent < size ? POLLOUT : 0))};
        check(wait_for(&one), "neither an answer nor an end");
        if (one.revents & POLLOUT) {
            ssize_t n = send(s, data + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
            sent = n > 0 ? sent + (size_t)n : size; /* closed by the service: no more */
            if (sent == size) finish(s);
        }
        if (!(one.revents & (POLLIN | POLLHUP | POLLERR))) continue;
        ssize_t n = recv(s, rest, sizeof rest, MSG_DONTWAIT);
        if (n <= 0) break;
        size_t kept = (size_t)n < room - got ? (size_t)n : room - got;
        memcpy(answer + got, rest, kept);
        got += kept;
    }
    close(s);
    return got;
}

static void look(void) {
    static const char healthz[] = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", good[] = "HTTP/1.1 200 ";
    char answer[sizeof good];
    size_t got = exchange((const uint8_t *)healthz, sizeof healthz - 1, answer, sizeof answer);
    check(got == sizeof answer && memcmp(answer, good, sizeof good - 1) == 0, "/healthz does not answer");
    int64_t deadline = tpv_deadline_in(ANSWER_S);
    while (tpv_http_server_pending(service->http) > 0 || tpv_mover_active(service->mover) > 0) {
        check(!tpv_deadline_passed(deadline), "something is left under way");
        poll(NULL, 0, 1);
    }
    if (tpv_catalog_count(&service->catalog) > 0) return;
    tpv_entry_t *entry = open_entry(); /* the input has retired it */
    check(tpv_service_publish(service, entry) == TPV_OK, "cannot offer it again");
    tpv_entry_release(entry);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static unsigned inputs;
    char answer[1];
    exchange(data, size, answer, sizeof answer);
    if (inputs++ % LOOK_PERIOD == 0) look();
    return 0;
}
