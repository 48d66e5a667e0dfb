/*
 * Closing a connection whose peer may still send notices. Linux answers bytes that come for a closed socket, and closes
 * a socket with unread bytes, with a reset, which throws away what the socket has not delivered yet (tcp_close,
 * net/ipv4/tcp.c; tcp_rcv_state_process, net/ipv4/tcp_input.c at v6.1). Such a connection stays open until everything
 * is delivered. There is no thread for it: the transport looks after it whenever it is called for something else.
 */
#ifndef TCP_LINGER_H
#define TCP_LINGER_H

#include <stdbool.h>

/* Take over `fd`, whose owner has sent everything, if it cannot be closed at once; otherwise false. */
bool tpv_tcp_linger(int fd);

/* Close what is delivered, what is lost, and what has lingered too long. Under the setup lock (core/fork.h). */
void tpv_tcp_linger_sweep(void);

#endif
