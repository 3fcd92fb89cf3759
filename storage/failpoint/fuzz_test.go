package failpoint

import "testing"

// FuzzParse: what is taken names points that exist and hits that can come.
func FuzzParse(f *testing.F) {
	f.Add("log.store.before=kill@3, fsm.commit.after=sleep(50)@2+\npublish.rename.before=error")
	f.Add("fsm.expire.max_rows=set(9),")
	f.Add("log.store.before=kill@0")
	f.Add("log.store.before=sleep(99999999999999999999)")
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := parse(text)
		if err != nil {
			return
		}
		for _, r := range rules {
			if _, known := points[r.name]; !known || r.at < 1 || r.pause < 0 {
				t.Errorf("%q is %+v", text, r)
			}
		}
	})
}
