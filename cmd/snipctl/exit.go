package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/snipdb/snipdb/httpapi/client"
)

// The exit codes; doc.go says what they mean.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitUnavailable = 5
)

// usageError is a mistake in the command line, the environment or the file.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// unavailableError is a condition that did not come true in time.
type unavailableError struct{ err error }

func (e *unavailableError) Error() string { return e.err.Error() }
func (e *unavailableError) Unwrap() error { return e.err }

// notFoundError is a thing that the cluster does not have, found out here.
type notFoundError struct{ what string }

func (e *notFoundError) Error() string { return e.what }

// reportedError is a failure that the command's output has shown already.
type reportedError struct{ err error }

func (e *reportedError) Error() string { return e.err.Error() }
func (e *reportedError) Unwrap() error { return e.err }

// exit prints the error, if it needs to be, and returns the exit code.
func (a *app) exit(err error) int {
	if err == nil {
		return exitOK
	}
	var reported *reportedError
	if !errors.As(err, &reported) {
		fmt.Fprintf(a.stderr, "snipctl: %v\n", err)
	}
	var usage *usageError
	if errors.As(err, &usage) && !a.started {
		fmt.Fprintln(a.stderr, "Run with --help to see what there is.")
	}
	return exitCode(err)
}

// exitCode is the one table from errors to exit codes.
func exitCode(err error) int {
	var (
		usage       *usageError
		unavailable *unavailableError
		notFound    *notFoundError
		answer      *client.Error
	)
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &notFound):
		return exitNotFound
	case errors.As(err, &unavailable), errors.Is(err, client.ErrUnavailable):
		return exitUnavailable
	case errors.As(err, &answer):
		return statusCode(answer.Status)
	case errors.Is(err, context.DeadlineExceeded):
		return exitUnavailable
	default:
		return exitFailed
	}
}

// statusCode maps an HTTP status; 0 means that no answer came.
func statusCode(status int) int {
	switch status {
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return exitConflict
	case 0, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return exitUnavailable
	default:
		return exitFailed
	}
}
