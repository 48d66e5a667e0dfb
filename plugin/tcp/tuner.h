/*
 * Whether helpers make a comm faster is measured, not guessed: it depends on the link, on the size of the messages and
 * on what else the CPUs do. While there is always something to send, the rate is taken over stretches of some MiB,
 * mostly with the better choice and now and then with the other one.
 */
#ifndef TCP_TUNER_H
#define TCP_TUNER_H

#include <stdbool.h>
#include <stdint.h>

/* All zero at first: no help. */
typedef struct {
    bool helped;         /* the present choice */
    bool trying;         /* it is not the one that was better */
    unsigned stretches;  /* since this choice was made */
    unsigned patience;   /* stretches until the other one is tried */
    double rates[2];     /* bytes for each ns of the last stretches without and with help; 0: not known */
    int64_t began;       /* the stretch; 0: none */
    int64_t paused;      /* nothing to send since then; 0: there is */
    uint64_t bytes_then; /* written when it began */
} tpv_tcp_tuner_t;

/* `bytes` were written by `now` (ns), and more is to be sent. Whether to have help from now on. */
bool tpv_tcp_tuner_update(tpv_tcp_tuner_t *tuner, uint64_t bytes, int64_t now);

/* From `now` on there is nothing to send; there is something again. A stretch with a long pause tells nothing. */
static inline void tpv_tcp_tuner_pause(tpv_tcp_tuner_t *tuner, int64_t now) {
    tuner->paused = now;
}
void tpv_tcp_tuner_resume(tpv_tcp_tuner_t *tuner, int64_t now);

#endif
