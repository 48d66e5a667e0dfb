#include "core/boot.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

/* Written once under pthread_once, read-only after. */
static uint8_t id[TPV_ID_BYTES];
static bool known;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int hex_digit(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* proc(5): /proc/sys/kernel/random/boot_id is a UUID. */
static bool parse(const char *text) {
    int digits = 0;
    for (const char *at = text; *at && *at != '\n'; at++) {
        if (*at == '-') continue;
        int digit = hex_digit(*at);
        if (digit < 0 || digits == 2 * TPV_ID_BYTES) return false;
        id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | digit);
        digits++;
    }
    return digits == 2 * TPV_ID_BYTES;
}

static void look(void) {
    char text[64];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return;
    text[length] = '\0';
    known = parse(text);
}

const uint8_t *tpv_boot_id(void) {
    pthread_once(&once, look);
    return known ? id : NULL;
}
