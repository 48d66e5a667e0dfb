#include "local/host.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/fork.h"
#include "core/params.h"

/* Written once under pthread_once, read-only after. */
static tpv_local_host_t host;
static bool known;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int hex_digit(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* proc(5): a UUID, drawn anew at every boot. */
static bool read_boot_id(uint8_t *id) {
    char text[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length < 36) return false;
    text[length] = '\0';
    int digits = 0;
    for (const char *at = text; *at && *at != '\n'; at++) {
        if (*at == '-') continue;
        int digit = hex_digit(*at);
        if (digit < 0 || digits == 2 * TPV_LOCAL_ID_BYTES) return false;
        id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | digit);
        digits++;
    }
    return digits == 2 * TPV_LOCAL_ID_BYTES;
}

static void look(void) {
    struct stat space;
    if (tpv_net_param_int(TPV_NET_PARAM_LOCAL) == 0) return;
    if (!read_boot_id(host.boot_id) || stat("/proc/self/ns/pid", &space) != 0) return;
    host.pid_namespace = space.st_ino;
    known = true;
}

const tpv_local_host_t *tpv_local_host(void) {
    pthread_once(&once, look);
    return known ? &host : NULL;
}

const uint8_t *tpv_local_nonce(void) {
    static uint8_t *nonce;
    static unsigned generation;
    static bool good;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!nonce) {
        void *memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return NULL;
        /* Without it a forked child would have the same bytes. */
        if (madvise(memory, page, MADV_WIPEONFORK) != 0) {
            munmap(memory, page);
            return NULL;
        }
        nonce = memory;
    }
    if (!good || generation != tpv_fork_generation()) {
        generation = tpv_fork_generation();
        good = getrandom(nonce, TPV_LOCAL_ID_BYTES, GRND_NONBLOCK) == TPV_LOCAL_ID_BYTES;
    }
    return good ? nonce : NULL;
}
