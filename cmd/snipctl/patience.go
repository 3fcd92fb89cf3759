package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snipdb/snipdb/httpapi/client"
	"github.com/snipdb/snipdb/httpapi/wire"
)

const (
	// startPatience is how long import looks for a node before it begins;
	// a shorter --timeout shortens it. Nothing is imported yet, so the sooner
	// it fails, the better.
	startPatience = 10 * time.Second
	// silence is how long the cluster may say nothing in the middle of an
	// import before that is told, and sayAgain how often it is told again.
	silence, sayAgain = 5 * time.Second, 30 * time.Second
)

// reach waits until one of the endpoints answers, whatever it says.
func (a *app) reach(ctx context.Context, cl *client.Client) error {
	patience := min(a.timeout, startPatience)
	search, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var (
		found atomic.Bool
		wait  sync.WaitGroup
		last  = make([]string, len(a.endpoints))
	)
	for i, endpoint := range a.endpoints {
		wait.Go(func() {
			for {
				_, _, err := cl.Ready(search, endpoint)
				if answered(err) {
					found.Store(true)
					cancel()
					return
				}
				if last[i] == "" || search.Err() == nil {
					last[i] = short(err)
				}
				select {
				case <-search.Done():
					return
				case <-time.After(pollEvery):
				}
			}
		})
	}
	wait.Wait()
	switch {
	case found.Load():
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	return &unavailableError{fmt.Errorf("no node answers at %s within %s (%s); nothing is imported",
		strings.Join(a.endpoints, ", "), patience, strings.Join(last, "; "))}
}

// answered says whether a node sent an answer, if only an error.
func answered(err error) bool {
	var answer *client.Error
	return err == nil || errors.As(err, &answer) && answer.Status != 0 || !errors.Is(err, client.ErrUnavailable)
}

// patience notices that an import waits for the cluster. While the source is
// read, it is not the cluster that is slow.
type patience struct {
	w io.Writer

	mu      sync.Mutex
	reading time.Time // since when the source is read; zero: it is not
	heard   time.Time // when the cluster answered last, moved on by what reading took
	said    time.Time // when the silence was told; zero: not yet
}

// source follows the reading of documents.
func (p *patience) source(docs iter.Seq[wire.DocumentInput]) iter.Seq[wire.DocumentInput] {
	return func(yield func(wire.DocumentInput) bool) {
		p.read(time.Now(), true)
		for doc := range docs {
			p.read(time.Now(), false)
			if !yield(doc) {
				return
			}
			p.read(time.Now(), true)
		}
		p.read(time.Now(), false)
	}
}

// read notes that the reading of a document begins or ends, at the time now.
func (p *patience) read(now time.Time, begins bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if begins {
		p.reading = now
		return
	}
	p.heard = p.heard.Add(now.Sub(p.reading))
	p.reading = time.Time{}
}

// answer notes that the cluster answered, at the time now.
func (p *patience) answer(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.said.IsZero() {
		fmt.Fprintf(p.w, "the cluster answers again, after %s\n", now.Sub(p.heard).Round(time.Second))
	}
	p.heard, p.said = now, time.Time{}
	if !p.reading.IsZero() {
		p.reading = now // what it took until here is behind the answer
	}
}

// look tells a silence that has become too long, at the time now.
func (p *patience) look(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	quiet := now.Sub(p.heard)
	if !p.reading.IsZero() || quiet < silence || !p.said.IsZero() && now.Sub(p.said) < sayAgain {
		return
	}
	p.said = now
	fmt.Fprintf(p.w, "no answer from the cluster for %s: trying on; Ctrl-C ends the import and tells how to continue it\n", quiet.Round(time.Second))
}

// watch looks until the function it returns is called.
func (p *patience) watch() (stop func()) {
	p.answer(time.Now())
	quit, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(silence / 5)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case now := <-tick.C:
				p.look(now)
			}
		}
	}()
	return func() {
		close(quit)
		<-stopped
	}
}

// lockedWriter lets several goroutines write lines to one stream.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
