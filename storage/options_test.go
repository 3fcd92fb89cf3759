package storage

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// metricName is a metric as the table of options names it. That the process
// shows each is TestMonitoringUsesMetricsThatExist of package cmd/snipdb.
var metricName = regexp.MustCompile("`(snipdb|process)_[a-z0-9_]+[`{]")

// TestOptionTable parses every default, and opens a database with each
// profile.
func TestOptionTable(t *testing.T) {
	for profile := range profileIndex {
		o := Options{Profile: profile}
		must(t, o.Validate())
		for name, v := range o.Effective() {
			if v.Value == "" || v.Source == "" {
				t.Errorf("%s: option %s is %q from %q", profile, name, v.Value, v.Source)
			}
		}
		db := openDB(t, t.TempDir(), o)
		putSystem(t, db, "k", "v")
		must(t, db.Flush())
	}
	for _, d := range OptionDocs() {
		if d.Help == "" || d.Name == "" || strings.HasSuffix(d.Help, ".") {
			t.Errorf("option %q is documented by %q", d.Name, d.Help)
		}
		if !metricName.MatchString(d.Wrong) || strings.HasSuffix(d.Wrong, ".") {
			t.Errorf("option %q: no metric shows that it is wrong: %q", d.Name, d.Wrong)
		}
	}
	for name := range familyDefaults {
		if _, err := findSpec(name); err != nil {
			t.Errorf("default of %s: %v", name, err)
		}
	}
}

// TestEveryOptionIsOverridable sets each option to another legal value and
// opens a database with it.
func TestEveryOptionIsOverridable(t *testing.T) {
	o := small()
	o.Overrides, o.OverrideSource = map[string]string{}, map[string]string{}
	for _, s := range optionSpecs {
		v := map[int]string{kindBool: "true", kindFloat: "0.5", kindInt: "8", kindBytes: "8MiB", kindWord: ""}[s.kind]
		switch {
		case s.kind == kindBool && s.def[0] == "true":
			v = "false"
		case s.kind == kindWord:
			v = s.words[1]
		case strings.HasPrefix(s.name, "level0_s"), s.name == "hard_pending_compaction_bytes_limit":
			v = map[bool]string{true: "64GiB", false: "50"}[s.kind == kindBytes]
		case strings.HasPrefix(s.name, "use_direct"):
			v = "true"
		case s.name == "compression", s.name == "bottommost_compression", s.name == "blob_compression_type":
			v = "zlib"
		}
		o.Overrides[s.name], o.OverrideSource[s.name] = v, "flag"
	}
	o.Overrides["embeddings.min_blob_size"] = "2KiB"
	must(t, o.Validate())
	eff := o.Effective()
	for name, want := range o.Overrides {
		if got := eff[name]; got.Value != want || (name != "embeddings.min_blob_size" && got.Source != "flag") {
			t.Errorf("option %s is %+v, want %q from flag", name, got, want)
		}
	}
	if got := eff["embeddings.min_blob_size"].Source; got != "override" {
		t.Errorf("the source of an override without one is %q", got)
	}
	db := openDB(t, t.TempDir(), o)
	putSystem(t, db, "k", "v")
	must(t, db.Flush())
}

func TestOptionErrors(t *testing.T) {
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"unknown option":       {Options{Overrides: map[string]string{"nope": "1"}}, "no such option"},
		"unknown family":       {Options{Overrides: map[string]string{"nope.block_size": "1"}}, "no column family"},
		"default is no family": {Options{Overrides: map[string]string{"default.block_size": "8KiB"}}, "no column family"},
		"not of a family":      {Options{Overrides: map[string]string{"docs.max_background_jobs": "4"}}, "not an option of a column family"},
		"not a number":         {Options{Overrides: map[string]string{"max_background_jobs": "many"}}, "must be a number"},
		"not a number but NaN": {Options{Overrides: map[string]string{"bloom_bits_per_key": "NaN"}}, "must be a number"},
		"too small":            {Options{Overrides: map[string]string{"block_size": "16"}}, "must be 1KiB to 16MiB"},
		"too large":            {Options{Overrides: map[string]string{"write_buffer_size": "64TiB"}}, "must be"},
		"overflow":             {Options{Overrides: map[string]string{"write_buffer_size": "9999999999999TiB"}}, "must be a number"},
		"negative":             {Options{Overrides: map[string]string{"block_size": "-1"}}, "must be"},
		"not a word":           {Options{Overrides: map[string]string{"compression": "gzip"}}, "must be one of none"},
		"not a bool":           {Options{Overrides: map[string]string{"paranoid_checks": "perhaps"}}, "must be true or false"},
		"profile":              {Options{Profile: "huge"}, "must be small, default or large"},
		"memory":               {Options{MemoryBytes: 1}, "at least 64MiB"},
		"triggers":             {Options{Overrides: map[string]string{"level0_stop_writes_trigger": "2"}}, "must hold"},
		"pending":              {Options{Overrides: map[string]string{"docs.hard_pending_compaction_bytes_limit": "1MiB"}}, "must not be above"},
		"zero cache":           {Options{Overrides: map[string]string{"block_cache_bytes": "0"}}, "must be 4MiB"},
	} {
		if err := c.o.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something with %q", name, err, c.want)
		}
	}
	// All problems are told at once.
	err := Options{Profile: "huge", Overrides: map[string]string{"a": "", "b": ""}}.Validate()
	if n := strings.Count(err.Error(), "storage:"); n != 3 {
		t.Errorf("%d problems in %q, want 3", n, err)
	}
}

// TestMemoryBudget checks the split and that an override beats it.
func TestMemoryBudget(t *testing.T) {
	eff := Options{MemoryBytes: 1000 << 20}.Effective()
	if got := eff["block_cache_bytes"]; got != (OptionValue{"500MiB", "memory budget"}) {
		t.Errorf("block cache %+v", got)
	}
	if got := eff["write_buffer_manager_bytes"]; got != (OptionValue{"300MiB", "memory budget"}) {
		t.Errorf("memtables %+v", got)
	}
	eff = Options{MemoryBytes: 1000 << 20, Overrides: map[string]string{"block_cache_bytes": "64MiB"}}.Effective()
	if got := eff["block_cache_bytes"]; got != (OptionValue{"64MiB", "override"}) {
		t.Errorf("block cache %+v", got)
	}
	// A general override beats the profile's value for a family.
	eff = Options{Overrides: map[string]string{"write_buffer_size": "1MiB"}}.Effective()
	if got, ok := eff["embeddings.write_buffer_size"]; ok {
		t.Errorf("embeddings have %+v of their own", got)
	}
}

// TestSources holds each value to where it came from.
func TestSources(t *testing.T) {
	o := Options{Profile: Small, ProfileSource: "file", MemoryBytes: 128 << 20, MemorySource: "environment",
		Overrides: map[string]string{"block_size": "8KiB", "max_open_files": "100"}, OverrideSource: map[string]string{"block_size": "flag"}}
	eff := o.Effective()
	for name, want := range map[string]OptionValue{
		"profile": {"small", "file"}, "memory_bytes": {"128MiB", "environment"}, "block_size": {"8KiB", "flag"},
		"max_open_files": {"100", "override"}, "block_cache_bytes": {"64MiB", "memory budget"}, "max_background_jobs": {"2", "profile small"},
	} {
		if eff[name] != want {
			t.Errorf("%s is %+v, want %+v", name, eff[name], want)
		}
	}
	// A source without a value says nothing.
	eff = Options{ProfileSource: "flag", MemorySource: "default"}.Effective()
	if eff["profile"] != (OptionValue{"default", "default"}) || eff["memory_bytes"] != (OptionValue{"1GiB", "profile default"}) {
		t.Errorf("unset: %+v and %+v", eff["profile"], eff["memory_bytes"])
	}
	for name, v := range (Options{Profile: Large}).Effective() {
		if v.Source == "" || v.Source == "set" {
			t.Errorf("%s is from %q", name, v.Source)
		}
	}
}

func TestBytesRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.Int64Range(0, 1<<62).Draw(rt, "n") >> rapid.IntRange(0, 62).Draw(rt, "shift")
		got, err := parseBytes(formatBytes(n))
		noErr(rt, err)
		equal(rt, "size", got, n)
	})
	for text, want := range map[string]int64{"1k": 1 << 10, " 2 MiB ": 2 << 20, "3G": 3 << 30, "12": 12, "7b": 7} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("parseBytes(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
}

// The log's memtables and cache are part of the budget.
func TestTheLogIsWithinTheMemoryBudget(t *testing.T) {
	for _, c := range []struct {
		memory, memtable, cache int64
	}{
		{64 << 20, 2236960, 1118480},
		{128 << 20, 4473923, 2236961},
		{1 << 30, defaultLogMemtable, defaultLogCache},
	} {
		log, err := Options{MemoryBytes: c.memory}.LogOptions()
		if err != nil {
			t.Fatal(err)
		}
		if log.MemtableBytes != c.memtable || log.CacheBytes != c.cache {
			t.Errorf("memory %d: memtable %d, cache %d", c.memory, log.MemtableBytes, log.CacheBytes)
		}
		if all := c.memory/100*(cachePercent+memtablePercent) + logMemtables*log.MemtableBytes + log.CacheBytes; all > c.memory/100*95 {
			t.Errorf("memory %d: %d are given away", c.memory, all)
		}
	}
	if got := (Options{MemoryBytes: 128 << 20}).Effective()["log.write_buffer_size"]; got.Source != "memory budget" {
		t.Errorf("%+v", got)
	}
}
