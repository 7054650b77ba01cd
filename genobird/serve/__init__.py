"""A local page: variants, regions and VCF files in, reports and tables out, for one machine."""
