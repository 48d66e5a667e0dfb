#include "local/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "tpview-net"
/* What /proc shows for it, see memfd_create(2). */
#define LINK "/memfd:" NAME

static const uint8_t magic[8] = {'T', 'P', 'V', 'S', 'H', 'A', 'R', 'E'};

static bool map(tpv_local_segment_t *segment) {
    void *memory = mmap(NULL, sizeof *segment->control, PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd, 0);
    if (memory == MAP_FAILED) return false;
    segment->control = memory;
    return true;
}

bool tpv_local_segment_make(const uint8_t *nonce, tpv_local_segment_t *segment) {
    *segment = (tpv_local_segment_t){.fd = memfd_create(NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    if (segment->fd < 0) return false;
    /* Sealed in size, so that no page of the mapping can go away. The mapped part gets its memory now: a lack of it
     * is an error here and would be a signal later. */
    if (ftruncate(segment->fd, (off_t)TPV_LOCAL_BYTES) == 0 &&
        fallocate(segment->fd, 0, 0, (off_t)sizeof(tpv_local_control_t)) == 0 &&
        fcntl(segment->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 && map(segment)) {
        memcpy(segment->control->magic, magic, sizeof magic);
        segment->control->version = TPV_LOCAL_VERSION;
        segment->control->bytes = (uint32_t)TPV_LOCAL_BYTES;
        memcpy(segment->control->nonce, nonce, TPV_LOCAL_ID_BYTES);
        return true;
    }
    int error_number = errno;
    tpv_local_segment_close(segment);
    errno = error_number;
    return false;
}

static bool good(const tpv_local_segment_t *segment, const uint8_t *nonce) {
    const tpv_local_control_t *control = segment->control;
    return memcmp(control->magic, magic, sizeof magic) == 0 && control->version == TPV_LOCAL_VERSION &&
           control->bytes == TPV_LOCAL_BYTES && memcmp(control->nonce, nonce, TPV_LOCAL_ID_BYTES) == 0;
}

bool tpv_local_segment_open(int pid, int fd, const uint8_t *nonce, tpv_local_segment_t *segment, const char **why) {
    char path[64], link[64];
    struct stat file;
    *segment = (tpv_local_segment_t){.fd = -1};
    snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
    /* Opening something else, such as a device, could have effects of its own. */
    ssize_t length = readlink(path, link, sizeof link - 1);
    *why = "its descriptors cannot be seen";
    if (length < 0) return false;
    link[length] = '\0';
    *why = "its shared memory is not where it says";
    if (strncmp(link, LINK, strlen(LINK)) != 0) return false;
    segment->fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    *why = "its shared memory cannot be opened";
    if (segment->fd < 0) return false;
    int seals = fcntl(segment->fd, F_GET_SEALS);
    *why = "its shared memory is not in order";
    if (fstat(segment->fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_size == (off_t)TPV_LOCAL_BYTES &&
        seals >= 0 && (seals & F_SEAL_SHRINK) && map(segment) && good(segment, nonce))
        return true;
    tpv_local_segment_close(segment);
    return false;
}

void tpv_local_segment_close(tpv_local_segment_t *segment) {
    if (segment->control) munmap(segment->control, sizeof *segment->control);
    if (segment->fd >= 0) close(segment->fd);
    *segment = (tpv_local_segment_t){.fd = -1};
}
