#include "local/host.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/boot.h"
#include "core/fork.h"
#include "core/params.h"

/* Written once under pthread_once, read-only after. */
static tpv_local_host_t host;
static bool known;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void look(void) {
    struct stat space;
    if (tpv_net_param_int(TPV_NET_PARAM_LOCAL) == 0) return;
    const uint8_t *boot_id = tpv_boot_id();
    if (!boot_id || stat("/proc/self/ns/pid", &space) != 0) return;
    memcpy(host.boot_id, boot_id, sizeof host.boot_id);
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
        good = getrandom(nonce, TPV_ID_BYTES, GRND_NONBLOCK) == TPV_ID_BYTES;
    }
    return good ? nonce : NULL;
}
