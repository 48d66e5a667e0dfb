#include "base/small_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

static tpv_status_t read_all(const char *path, int descriptor, size_t limit, char **text, size_t *length) {
    size_t room = 0;
    for (ssize_t got = 1; got > 0;) {
        if (*length + 1 >= room) {
            room = room ? 2 * room : 65536;
            char *grown = realloc(*text, room);
            if (!grown) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to read %s", path);
            *text = grown;
        }
        got = read(descriptor, *text + *length, room - *length - 1);
        if (got < 0) return tpv_error_set_errno(TPV_ERR_SYSTEM, errno, "cannot read %s", path);
        *length += (size_t)got;
        if (*length > limit) return tpv_error_set(TPV_ERR_FORMAT, "%s is longer than %zu bytes", path, limit);
    }
    (*text)[*length] = '\0';
    return TPV_OK;
}

tpv_status_t tpv_small_file_read(const char *path, size_t limit, bool is_secret, char **text, size_t *length) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return tpv_error_set_errno(errno == ENOENT ? TPV_ERR_NOT_FOUND : TPV_ERR_SYSTEM, errno, "cannot open %s", path);
    struct stat file;
    tpv_status_t status = TPV_OK;
    *text = NULL;
    *length = 0;
    if (is_secret && fstat(descriptor, &file) == 0 && (file.st_mode & (S_IRWXG | S_IRWXO)))
        status = tpv_error_set(TPV_ERR_PERMISSION, "%s can be read by others: chmod 600 it", path);
    if (status == TPV_OK) status = read_all(path, descriptor, limit, text, length);
    close(descriptor);
    if (status == TPV_OK) return TPV_OK;
    free(*text);
    *text = NULL;
    return status;
}
