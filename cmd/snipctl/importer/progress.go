package importer

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// Progress is what a run has done so far. All fields may be read at any time.
type Progress struct {
	Items, Documents, Snippets, Bytes, Failed, Retries atomic.Int64

	total atomic.Int64
	began atomic.Int64 // Unix nanoseconds
	// Read, if set before the run, says how much of how much input was read;
	// it gives the share when the number of documents is not known.
	Read func() (done, total int64)
}

func (p *Progress) begin(source Source) {
	p.total.Store(int64(source.Total))
	p.began.Store(time.Now().UnixNano())
}

func (p *Progress) done(d *pending) {
	p.Items.Add(1)
	p.Documents.Add(1)
	p.Snippets.Add(int64(d.snippets))
	p.Bytes.Add(d.bytes)
}

// share is how much of the input is done, 0 to 1; 0 if that is not known.
func (p *Progress) share() float64 {
	if total := p.total.Load(); total > 0 {
		return min(1, float64(p.Items.Load())/float64(total))
	}
	if p.Read != nil {
		if done, total := p.Read(); total > 0 {
			return min(1, float64(done)/float64(total))
		}
	}
	return 0
}

// Line renders the progress at the time now, without a line end.
func (p *Progress) Line(now time.Time) string {
	elapsed := now.Sub(time.Unix(0, p.began.Load()))
	docs, snippets := p.Documents.Load(), p.Snippets.Load()
	line := fmt.Sprintf("%d documents", docs)
	if total := p.total.Load(); total > 0 {
		line = fmt.Sprintf("%d/%d documents", docs, total)
	}
	line += fmt.Sprintf(", %d snippets, %.1f MB", snippets, float64(p.Bytes.Load())/1e6)
	if s := elapsed.Seconds(); s > 0.1 {
		line += fmt.Sprintf(", %.0f snippets/s", float64(snippets)/s)
	}
	if f := p.share(); f > 0 {
		line += fmt.Sprintf(", %.0f %%", 100*f)
		if f < 1 && elapsed > time.Second {
			left := time.Duration(float64(elapsed) * (1 - f) / f).Round(time.Second)
			line += fmt.Sprintf(", %s left", left)
		}
	}
	if n := p.Failed.Load(); n > 0 {
		line += fmt.Sprintf(", %d failed", n)
	}
	if n := p.Retries.Load(); n > 0 {
		line += fmt.Sprintf(", %d retries", n)
	}
	return line
}

// Show writes the progress to w until the returned function is called: on a
// terminal one line that is written over five times a second, elsewhere a line
// every five seconds.
func (p *Progress) Show(w io.Writer, terminal bool) (stop func()) {
	every := 5 * time.Second
	if terminal {
		every = 200 * time.Millisecond
	}
	quit, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				if terminal {
					fmt.Fprint(w, "\r\033[K")
				}
				return
			case now := <-tick.C:
				if terminal {
					fmt.Fprintf(w, "\r\033[K%s", p.Line(now))
				} else {
					fmt.Fprintln(w, p.Line(now))
				}
			}
		}
	}()
	return func() {
		close(quit)
		<-stopped
	}
}
