#include "local/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define NAME "tpview-net"

static const uint8_t magic[8] = {'T', 'P', 'V', 'S', 'H', 'A', 'R', 'E'};

static bool map(tpv_local_segment_t *segment) {
    void *memory = mmap(NULL, sizeof *segment->control, PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd, 0);
    if (memory == MAP_FAILED) return false;
    segment->control = memory;
    return true;
}

bool tpv_local_segment_make(tpv_local_segment_t *segment) {
    *segment = (tpv_local_segment_t){.fd = memfd_create(NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    if (segment->fd < 0) return false;
    /* Sealed in size, so that no page of the mapping can go away. The mapped part gets its memory now: a lack of it
     * is an error here and would be a signal later. */
    if (ftruncate(segment->fd, (off_t)TPV_LOCAL_BYTES) == 0 &&
        fallocate(segment->fd, 0, 0, (off_t)sizeof(tpv_local_control_t)) == 0 &&
        fcntl(segment->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 && map(segment) &&
        getrandom(segment->control->id, TPV_ID_BYTES, GRND_NONBLOCK) == TPV_ID_BYTES) {
        memcpy(segment->control->magic, magic, sizeof magic);
        segment->control->version = TPV_LOCAL_VERSION;
        segment->control->bytes = (uint32_t)TPV_LOCAL_BYTES;
        return true;
    }
    int error_number = errno;
    tpv_local_segment_close(segment);
    errno = error_number;
    return false;
}

static bool good(const tpv_local_segment_t *segment, const uint8_t *id) {
    const tpv_local_control_t *control = segment->control;
    return memcmp(control->magic, magic, sizeof magic) == 0 && control->version == TPV_LOCAL_VERSION &&
           control->bytes == TPV_LOCAL_BYTES && memcmp(control->id, id, TPV_ID_BYTES) == 0;
}

/* The object behind a descriptor of the peer, not opened: that could have effects of its own, such as a device's. */
static int look_at(tpv_local_peer_t *peer, int fd) {
    char path[96];
    int found = -1;
    for (int tries = 0; tries < 2 && found < 0; tries++) {
        /* A thread that has ended has no descriptors, but another of its process may. One that lives tells for all. */
        if (tries > 0 && !tpv_local_peer_find_task(peer)) break;
        snprintf(path, sizeof path, "/proc/%d/task/%d/fd/%d", peer->pid, peer->task, fd);
        found = open(path, O_PATH | O_CLOEXEC);
    }
    return found;
}

bool tpv_local_segment_place(const tpv_local_segment_t *segment, tpv_local_place_t *place) {
    struct stat file;
    if (fstat(segment->fd, &file) != 0) return false;
    *place = (tpv_local_place_t){.device = file.st_dev, .inode = file.st_ino, .fd = segment->fd};
    memcpy(place->id, segment->control->id, sizeof place->id);
    return true;
}

/* Whether it is the file at `place` and can be a segment: memory without a name, of the right size. */
static bool looks_right(int fd, const tpv_local_place_t *place) {
    struct stat file;
    struct statfs system;
    return fstat(fd, &file) == 0 && file.st_dev == place->device && file.st_ino == place->inode &&
           S_ISREG(file.st_mode) && file.st_nlink == 0 && file.st_size == (off_t)TPV_LOCAL_BYTES &&
           fstatfs(fd, &system) == 0 && system.f_type == TMPFS_MAGIC;
}

bool tpv_local_segment_open(tpv_local_peer_t *peer, const tpv_local_place_t *place, tpv_local_segment_t *segment,
                            const char **why) {
    char path[64];
    *segment = (tpv_local_segment_t){.fd = -1};
    int object = look_at(peer, place->fd);
    *why = "its descriptors cannot be seen";
    if (object < 0) return false;
    *why = "its shared memory is not where it says";
    if (looks_right(object, place)) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", object);
        *why = "its shared memory cannot be opened";
        segment->fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    }
    close(object);
    if (segment->fd < 0) return false;
    /* Only a memfd has seals. */
    int seals = fcntl(segment->fd, F_GET_SEALS);
    *why = "its shared memory is not in order";
    if (seals >= 0 && (seals & F_SEAL_SHRINK) && map(segment) && good(segment, place->id)) return true;
    tpv_local_segment_close(segment);
    return false;
}

/* A record lock goes with its process, with the process's last thread, with exec and with close, and fork does not hand
 * it on (fcntl(2)): that is just what tells of an end that is there. */
static struct flock lock_of(tpv_local_side_t side) {
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)side, .l_len = 1};
}

void tpv_local_segment_hold(const tpv_local_segment_t *segment, tpv_local_side_t side) {
    struct flock lock = lock_of(side);
    (void)fcntl(segment->fd, F_SETLK, &lock);
}

bool tpv_local_segment_held(const tpv_local_segment_t *segment, tpv_local_side_t side) {
    struct flock lock = lock_of(side);
    return fcntl(segment->fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

void tpv_local_segment_close(tpv_local_segment_t *segment) {
    if (segment->control) munmap(segment->control, sizeof *segment->control);
    if (segment->fd >= 0) close(segment->fd);
    *segment = (tpv_local_segment_t){.fd = -1};
}
