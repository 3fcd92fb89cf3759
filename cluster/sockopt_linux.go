package cluster

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout makes the kernel drop a connection whose data nobody
// acknowledges for d: a peer that vanished without a packet (power, firewall)
// would otherwise hold a write for up to a quarter of an hour.
func setUserTimeout(conn *net.TCPConn, d time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("cluster: set TCP_USER_TIMEOUT: %w", err)
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	if err == nil {
		err = optErr
	}
	if err != nil {
		return fmt.Errorf("cluster: set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}

// quiet reports whether an idle connection is still open with nothing to
// read: one recv with MSG_PEEK that does not wait. End of file, a reset, or a
// byte that nobody asked for all mean that the next request would fail on it.
func quiet(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	alive := false
	var one [1]byte
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		alive = err == unix.EAGAIN || err == unix.EWOULDBLOCK
		return true // never wait for the poller
	})
	return err == nil && alive
}
